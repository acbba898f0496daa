//! Commands through the real binary in an isolated home.
