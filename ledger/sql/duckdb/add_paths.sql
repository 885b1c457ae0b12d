INSERT INTO paths
SELECT unnest($paths::VARCHAR[]), unnest($types::VARCHAR[]), unnest($keys::VARCHAR[])
