//! Row logic on situations, in tables.
