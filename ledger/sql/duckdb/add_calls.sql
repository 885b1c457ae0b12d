-- Scopes and paths come with another sign for line breaks.
CREATE OR REPLACE TEMP TABLE new_calls AS
SELECT * REPLACE (
    list_filter(string_split(scopes, chr(28)), s -> s <> '') AS scopes, replace(path, chr(28), chr(10)) AS path
)
FROM {source}
