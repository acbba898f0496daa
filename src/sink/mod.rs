//! What users and programs see of a run: consumers of the one event stream.
//!
//! Owns the terminal and JSON renderings and the thread that feeds them. What must stay true: a sink never
//! changes a run; a sink that fails is dropped and the others go on; a reader that went away is no error.
