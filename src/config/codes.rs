//! The stable codes of configuration diagnostics.
//!
//! A code names one kind of finding for good: documentation and tools may refer to it.

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: &str = $code;)*
        /// Every code with its line of explanation, in the order of this file.
        pub const ALL: &[(&str, &str)] = &[$(($code, concat!($($doc),*))),*];
    };
}

codes! {
    /// No accel.toml in this folder or any folder above it.
    NO_CONFIG = "no-config";
    /// A configuration file cannot be read, or is not UTF-8.
    UNREADABLE = "unreadable";
    /// A configuration file is larger or nested deeper than accel reads.
    TOO_LARGE = "too-large";
    /// A file that would be read elsewhere is not read here.
    IGNORED_FILE = "ignored-file";
    /// The text is not TOML (or YAML).
    SYNTAX = "syntax";
    /// A key that accel does not know.
    UNKNOWN_KEY = "unknown-key";
    /// A key that must be there is not.
    MISSING_KEY = "missing-key";
    /// A value of another type than the key takes.
    WRONG_TYPE = "wrong-type";
    /// A duration, size or amount of money that cannot be read.
    BAD_UNIT = "bad-unit";
    /// A value outside of what the key takes.
    BAD_VALUE = "bad-value";
    /// A name with characters that it may not have.
    BAD_NAME = "bad-name";
    /// A glob that cannot be read, or that leaves the project.
    BAD_GLOB = "bad-glob";
    /// A GPU that cannot be read.
    BAD_GPU = "bad-gpu";
    /// A GPU that this accel does not know (a warning: Modal may).
    UNKNOWN_GPU = "unknown-gpu";
    /// A placeholder that names no matrix axis, or where none is filled in.
    BAD_PLACEHOLDER = "bad-placeholder";
    /// A job that is not defined.
    UNKNOWN_JOB = "unknown-job";
    /// An image that is not defined.
    UNKNOWN_IMAGE = "unknown-image";
    /// A profile that is not defined.
    UNKNOWN_PROFILE = "unknown-profile";
    /// A fact that no rule can test.
    UNKNOWN_FACT = "unknown-fact";
    /// A comparison that makes no sense for its fact.
    BAD_COMPARISON = "bad-comparison";
    /// Things that need, extend or build on each other in a circle.
    CYCLE = "cycle";
    /// A rule that can never decide anything.
    NEVER_FIRES = "never-fires";
    /// Keys that exclude each other.
    CONTRADICTION = "contradiction";
    /// The same thing said twice.
    DUPLICATE = "duplicate";
    /// `version` or `requires` ask for another accel.
    BAD_VERSION = "bad-version";
    /// A credential written into a configuration file.
    SECRET_IN_FILE = "secret-in-file";
    /// There are more findings than are shown.
    MORE = "more";
    /// An `ACCEL_` variable that accel does not read (a warning).
    UNKNOWN_VARIABLE = "unknown-variable";
}
