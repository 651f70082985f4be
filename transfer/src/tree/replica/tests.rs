//! Tests of the replica as a whole.
