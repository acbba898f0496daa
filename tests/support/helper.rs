//! Programs that misbehave on purpose.

fn main() {}
