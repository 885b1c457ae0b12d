"""Every dollar on record: events become immutable cost records, and answer what was spent, where and why."""
