"""The command line: parse, call, show. The only room that speaks to a person."""
