DELETE FROM {table} WHERE at_ms < $before_ms
