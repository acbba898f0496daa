//! The user's Modal settings, read as the official SDK reads them.
//!
//! A setting comes from `MODAL_<KEY>` (present at all, even empty), else from the chosen profile of `~/.modal.toml`,
//! else from a default. Pure: the file's text and the variables are arguments. Credentials never print.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::image::BuildOptions;
use crate::backend::Failure;
use crate::domain::Cause;

/// Tried one after the other, see `connect`.
pub const DEFAULT_SERVER_URL: &str = "https://api.modal.com,https://api.modal2.com";

/// Where the settings file is: `MODAL_CONFIG_PATH` if not empty, else `~/.modal.toml`.
pub fn config_path(home: &Path, variables: &BTreeMap<String, String>) -> PathBuf {
    match variables.get("MODAL_CONFIG_PATH").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => home.join(".modal.toml"),
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub profile: String,
    pub credentials: Option<Credentials>,
    /// Comma-separated fallbacks.
    pub server_url: String,
    pub environment: Option<String>,
    /// Overrides the environment's own.
    pub image_builder_version: Option<String>,
    pub build: BuildOptions,
    /// False sends sandboxes without GPU to the first generation as well.
    pub sandbox_v2: bool,
    pub throttle: ThrottleLimit,
    pub build_validation: BuildValidation,
    pub volume_block_read_timeout: Duration,
    pub router_idle_timeout: Duration,
    /// Ignore the proxy variables for calls.
    pub disable_api_proxy: bool,
    /// Replace or extend the headers of every call; names in lower case.
    pub override_headers: BTreeMap<String, String>,
}

/// How long one call may wait because the server asked it to come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleLimit {
    Unlimited,
    AtMost(Duration),
    /// Fail as if the server had not asked.
    Never,
}

/// What to do about a file that changes while an image is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildValidation {
    Error,
    Warn,
    Ignore,
}

/// What the server knows us by. Shows the id of a token, never a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Token {
        id: String,
        secret: Secret,
    },
    /// Third-party integrations; with exactly a client secret.
    OAuth {
        refresh_token: Secret,
        client_id: String,
        client_secret: Secret,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { id, .. } => write!(f, "Token({id})"),
            Self::OAuth { client_id, .. } => write!(f, "OAuth({client_id})"),
        }
    }
}

/// Text that is only ever given to a header.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{}: `{key}` is outside of a profile", path.display())]
    NotAProfile { path: PathBuf, key: String },
    #[error("{}: more than one profile is active ({})", path.display(), names.join(", "))]
    SeveralActive { path: PathBuf, names: Vec<String> },
    #[error("{}: none of the profiles is active ({})", path.display(), names.join(", "))]
    NoneActive { path: PathBuf, names: Vec<String> },
    #[error("Modal profile `{name}` does not exist in {}", path.display())]
    NoSuchProfile { path: PathBuf, name: String, known: Vec<String> },
    #[error("{key} cannot be {value:?}")]
    Value { key: &'static str, value: String, expected: &'static str },
    #[error("both a Modal token and OAuth credentials are set")]
    TwoKindsOfCredentials,
    #[error("the OAuth credentials are not complete")]
    IncompleteOAuth,
    #[error("OAuth credentials with a key are not supported")]
    OAuthKey,
    #[error("accel runs inside a Modal container")]
    InsideContainer,
    #[error("no Modal token")]
    NoCredentials { path: PathBuf },
}

impl SettingsError {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Syntax { .. } => "correct the file, or make a new one with `modal token new`".into(),
            Self::NotAProfile { .. } => "put it below a `[name]` line".into(),
            Self::SeveralActive { .. } => "leave `active = true` in one profile, or set MODAL_PROFILE".into(),
            Self::NoneActive { .. } => "write `active = true` in one profile, or set MODAL_PROFILE".into(),
            Self::NoSuchProfile { known, .. } if known.is_empty() => {
                "unset MODAL_PROFILE, or make the profile with `modal token new --profile`".into()
            }
            Self::NoSuchProfile { known, .. } => format!("choose one of {}", known.join(", ")),
            Self::Value { expected, .. } => format!("write {expected}"),
            Self::TwoKindsOfCredentials => "unset MODAL_TOKEN_* or MODAL_OAUTH_*".into(),
            Self::IncompleteOAuth => {
                "set the refresh token, the client id and one of client secret and key".into()
            }
            Self::OAuthKey => "use a client secret or a Modal token".into(),
            Self::InsideContainer => "run jobs locally there: --on local".into(),
            Self::NoCredentials { path } => format!(
                "set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token new`, which writes {}",
                path.display()
            ),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::new(Cause::Auth, error.to_string()).help(error.help())
    }
}

impl Settings {
    /// `text` is the contents of the file at `path`, if there is one.
    pub fn load(
        path: &Path,
        text: Option<&str>,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, SettingsError> {
        if variables.get("MODAL_IS_REMOTE").is_some_and(|value| value == "1") {
            return Err(SettingsError::InsideContainer);
        }
        let file = text.map_or_else(|| Ok(toml::Table::new()), |text| parse(path, text))?;
        let profile = choose_profile(path, &file, variables)?;
        let reader = Reader { profile: file.get(&profile).and_then(toml::Value::as_table), variables };
        let credentials = credentials(&reader)?;
        if credentials.is_none() && reader.profile.is_none() && reader.names_profile() {
            let known = file.keys().cloned().collect();
            return Err(SettingsError::NoSuchProfile { path: path.to_owned(), name: profile, known });
        }
        Ok(Self {
            credentials,
            server_url: reader.text("server_url").unwrap_or_else(|| DEFAULT_SERVER_URL.to_owned()),
            environment: reader.text("environment").filter(|name| !name.is_empty()),
            image_builder_version: reader.text("image_builder_version").filter(|version| !version.is_empty()),
            build: BuildOptions {
                force_build: reader.flag("force_build", false),
                ignore_cache: reader.flag("ignore_cache", false),
                allow_global_deployment: variables
                    .get("MODAL_IMAGE_ALLOW_GLOBAL_DEPLOYMENT")
                    .is_some_and(|value| value == "1"),
            },
            sandbox_v2: reader.flag("sandbox_v2", true),
            throttle: reader.throttle()?,
            build_validation: reader.build_validation()?,
            volume_block_read_timeout: reader.seconds("volume_block_read_timeout", 60)?,
            router_idle_timeout: reader.seconds("sandbox_channel_idle_timeout", 30)?,
            disable_api_proxy: reader.flag("disable_api_proxy", false),
            override_headers: reader.headers()?,
            profile,
        })
    }

    /// The credentials, or why there are none. `path` is where they could have been.
    pub fn require_credentials(&self, path: &Path) -> Result<&Credentials, SettingsError> {
        self.credentials.as_ref().ok_or_else(|| SettingsError::NoCredentials { path: path.to_owned() })
    }
}

fn parse(path: &Path, text: &str) -> Result<toml::Table, SettingsError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| SettingsError::Syntax {
        path: path.to_owned(),
        // The parser's own text may quote the line, and with it a token.
        message: place(text, &error),
    })?;
    match table.iter().find(|(_, value)| !value.is_table()) {
        Some((key, _)) => Err(SettingsError::NotAProfile { path: path.to_owned(), key: key.clone() }),
        None => Ok(table),
    }
}

fn place(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count()) + 1;
    format!("line {line}")
}

fn choose_profile(
    path: &Path,
    file: &toml::Table,
    variables: &BTreeMap<String, String>,
) -> Result<String, SettingsError> {
    let names = || file.keys().cloned().collect::<Vec<_>>();
    let active: Vec<_> =
        file.iter().filter(|(_, profile)| is_active(profile)).map(|(name, _)| name.clone()).collect();
    if active.len() > 1 {
        return Err(SettingsError::SeveralActive { path: path.to_owned(), names: active });
    }
    let named = variables.get("MODAL_PROFILE").filter(|name| !name.is_empty()).cloned();
    let chosen = named.or_else(|| active.first().cloned()).unwrap_or_else(|| "default".to_owned());
    if file.len() > 1 && active.is_empty() && chosen == "default" {
        return Err(SettingsError::NoneActive { path: path.to_owned(), names: names() });
    }
    Ok(chosen)
}

fn is_active(profile: &toml::Value) -> bool {
    profile.get("active").and_then(toml::Value::as_bool).unwrap_or(false)
}

fn credentials(reader: &Reader<'_>) -> Result<Option<Credentials>, SettingsError> {
    let given = |key| reader.text(key).filter(|value| !value.is_empty());
    let (id, secret) = (given("token_id"), given("token_secret"));
    let (refresh_token, client_id) = (given("oauth_refresh_token"), given("oauth_client_id"));
    let (client_secret, key) = (given("oauth_client_secret"), given("oauth_jwt_key"));
    let oauth = [&refresh_token, &client_id, &client_secret, &key].iter().any(|value| value.is_some());
    if oauth && (id.is_some() || secret.is_some()) {
        return Err(SettingsError::TwoKindsOfCredentials);
    }
    if oauth {
        return match (refresh_token, client_id, client_secret, key) {
            (Some(refresh_token), Some(client_id), Some(client_secret), None) => {
                Ok(Some(Credentials::OAuth {
                    refresh_token: Secret(refresh_token),
                    client_id,
                    client_secret: Secret(client_secret),
                }))
            }
            (Some(_), Some(_), None, Some(_)) => Err(SettingsError::OAuthKey),
            _ => Err(SettingsError::IncompleteOAuth),
        };
    }
    Ok(id.zip(secret).map(|(id, secret)| Credentials::Token { id, secret: Secret(secret) }))
}

/// One key at a time, with the precedence of the official SDK.
struct Reader<'a> {
    profile: Option<&'a toml::Table>,
    variables: &'a BTreeMap<String, String>,
}

impl Reader<'_> {
    fn names_profile(&self) -> bool {
        self.variables.get("MODAL_PROFILE").is_some_and(|name| !name.is_empty())
    }

    fn variable(&self, key: &str) -> Option<&String> {
        self.variables.get(&format!("MODAL_{}", key.to_uppercase()))
    }

    fn in_file(&self, key: &str) -> Option<&toml::Value> {
        self.profile?.get(key)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.variable(key).cloned().or_else(|| {
            self.in_file(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        let falsy = |text: &str| ["", "0", "false"].contains(&text);
        self.text(key).map_or(default, |text| !falsy(&text.to_lowercase()))
    }

    fn seconds(&self, key: &'static str, default: u64) -> Result<Duration, SettingsError> {
        let Some(text) = self.text(key) else { return Ok(Duration::from_secs(default)) };
        let seconds = text.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        seconds.ok_or(SettingsError::Value { key, value: text, expected: "a number of seconds" })
    }

    fn throttle(&self) -> Result<ThrottleLimit, SettingsError> {
        const KEY: &str = "max_throttle_wait";
        let Some(text) = self.text(KEY) else { return Ok(ThrottleLimit::Unlimited) };
        // The SDK takes the number 0 in the file, unlike the text "0", for unset.
        let unset = self.variable(KEY).is_none()
            && self.in_file(KEY).is_some_and(|value| value.as_integer() == Some(0));
        if text.is_empty() || unset {
            return Ok(ThrottleLimit::Unlimited);
        }
        match text.trim().parse::<u64>() {
            Ok(0) => Ok(ThrottleLimit::Never),
            Ok(seconds) => Ok(ThrottleLimit::AtMost(Duration::from_secs(seconds))),
            Err(_) => Err(SettingsError::Value { key: KEY, value: text, expected: "whole seconds" }),
        }
    }

    fn build_validation(&self) -> Result<BuildValidation, SettingsError> {
        const KEY: &str = "build_validation";
        match self.text(KEY).map(|text| text.to_lowercase()).as_deref() {
            None | Some("error") => Ok(BuildValidation::Error),
            Some("warn") => Ok(BuildValidation::Warn),
            Some("ignore") => Ok(BuildValidation::Ignore),
            Some(value) => Err(SettingsError::Value {
                key: KEY,
                value: value.to_owned(),
                expected: "error, warn or ignore",
            }),
        }
    }

    fn headers(&self) -> Result<BTreeMap<String, String>, SettingsError> {
        const KEY: &str = "override_headers";
        let text = self.text(KEY).filter(|text| !text.is_empty());
        let pairs = text.iter().flat_map(|text| text.split(','));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once(':')?;
            let (name, value) = (name.trim().to_lowercase(), value.trim().to_owned());
            (!name.is_empty() && !value.is_empty()).then_some((name, value))
        };
        pairs.map(pair).collect::<Option<_>>().ok_or(SettingsError::Value {
            key: KEY,
            // A header may hold a secret.
            value: "…".into(),
            expected: "`name:value` pairs with commas between them",
        })
    }
}
