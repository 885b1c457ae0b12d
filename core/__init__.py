"""The words of the business: money, scopes, periods, clock, ids, keys, errors. Standard library only."""
