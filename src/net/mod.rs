//! HTTPS as every part of accel does it: one trust decision, one way through proxies, no ambient settings.
//!
//! Owns the root certificates and the HTTP client. Trusted are the bundled roots, those of `SSL_CERT_FILE` and
//! `SSL_CERT_DIR`, and the system's when asked for; control plane, transfers and package index share one
//! configuration, so that a company's intercepting proxy works for all of them or for none.

pub mod credentials;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

/// Until a connection stands, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pieces of a response.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What the user's machine says about its network; values only, read at the edge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// `SSL_CERT_FILE`, `SSL_CERT_DIR`.
    pub certificate_file: Option<PathBuf>,
    pub certificate_dir: Option<PathBuf>,
    pub system_roots: SystemRoots,
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in either case.
    pub https_proxy: Option<String>,
    pub http_proxy: Option<String>,
    pub all_proxy: Option<String>,
    pub no_proxy: Option<String>,
    pub keep_alive: KeepAlive,
}

/// How soon a connection that went silent is given up: asked this often, and answered within so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    pub interval: Duration,
    pub timeout: Duration,
}

impl Default for KeepAlive {
    /// Half a minute together: nobody looks longer at output that has stopped.
    fn default() -> Self {
        Self { interval: Duration::from_secs(20), timeout: Duration::from_secs(10) }
    }
}

/// Whether the system's own root certificates are trusted too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SystemRoots {
    #[default]
    Ignored,
    Trusted,
}

/// Why there is no HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot read root certificates from {variable}: {reason}")]
    Certificates { variable: &'static str, reason: String },
    #[error("bad proxy in {variable}: {reason}")]
    Proxy { variable: &'static str, reason: String },
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

impl NetworkSettings {
    /// From a look-up of variables; lower-case names win, as in curl.
    pub fn from_variables(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |lower: &str, upper: &str| {
            set(lower).or_else(|| set(upper)).and_then(|value| value.into_string().ok())
        };
        Self {
            certificate_file: set("SSL_CERT_FILE").map(PathBuf::from),
            certificate_dir: set("SSL_CERT_DIR").map(PathBuf::from),
            system_roots: match set("ACCEL_SYSTEM_CERTS") {
                Some(value) if value != "0" => SystemRoots::Trusted,
                _ => SystemRoots::Ignored,
            },
            https_proxy: text("https_proxy", "HTTPS_PROXY"),
            http_proxy: text("http_proxy", "HTTP_PROXY"),
            all_proxy: text("all_proxy", "ALL_PROXY"),
            no_proxy: text("no_proxy", "NO_PROXY"),
            keep_alive: KeepAlive::default(),
        }
    }

    /// The one TLS configuration, for HTTP here and for gRPC elsewhere.
    pub fn tls(&self) -> Result<Arc<ClientConfig>, NetworkError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<rustls::RootCertStore, NetworkError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let file = self.certificate_file.as_deref();
        let dir = self.certificate_dir.as_deref();
        if file.is_some() || dir.is_some() {
            let variable = if file.is_some() { "SSL_CERT_FILE" } else { "SSL_CERT_DIR" };
            add_certificates(&mut roots, rustls_native_certs::load_certs_from_paths(file, dir), variable)?;
        }
        if self.system_roots == SystemRoots::Trusted {
            let found = rustls_native_certs::load_native_certs();
            add_certificates(&mut roots, found, "the system's store (ACCEL_SYSTEM_CERTS)")?;
        }
        Ok(roots)
    }

    /// A client for package indexes.
    pub fn http_client(&self) -> Result<reqwest::Client, NetworkError> {
        Ok(self.http()?.read_timeout(READ_TIMEOUT).build()?)
    }

    /// A client for sending large files: an answer comes only after all of them was sent, which takes its time. Whoever
    /// sends looks after what stands still.
    pub fn upload_client(&self) -> Result<reqwest::Client, NetworkError> {
        Ok(self.http()?.build()?)
    }

    fn http(&self) -> Result<reqwest::ClientBuilder, NetworkError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&*self.tls()?))
            .user_agent(concat!("accel/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy();
        type MakeProxy = fn(&str) -> reqwest::Result<reqwest::Proxy>;
        let proxies: [(&'static str, &Option<String>, MakeProxy); 3] = [
            ("HTTPS_PROXY", &self.https_proxy, |url| reqwest::Proxy::https(url)),
            ("HTTP_PROXY", &self.http_proxy, |url| reqwest::Proxy::http(url)),
            ("ALL_PROXY", &self.all_proxy, |url| reqwest::Proxy::all(url)),
        ];
        for (variable, url, make) in proxies {
            let Some(url) = url else { continue };
            let proxy = make(url).map_err(|error| NetworkError::Proxy {
                variable,
                reason: credentials::redact(&describe(&error)).into_owned(),
            })?;
            let except = self.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string);
            builder = builder.proxy(proxy.no_proxy(except));
        }
        Ok(builder)
    }
}

/// A store that yields nothing although it was named is a mistake worth stopping at; single bad entries are not.
fn add_certificates(
    roots: &mut rustls::RootCertStore,
    found: rustls_native_certs::CertificateResult,
    variable: &'static str,
) -> Result<(), NetworkError> {
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(());
    }
    let reason = found.errors.first().map_or_else(|| "no certificate in it".to_owned(), ToString::to_string);
    Err(NetworkError::Certificates { variable, reason })
}

/// An error with the chain of its reasons, without credentials of URLs.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        if !text.contains(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        source = reason.source();
    }
    credentials::redact(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_in_both_cases() {
        let lookup = |name: &str| match name {
            "https_proxy" => Some("http://lower:1".into()),
            "HTTPS_PROXY" => Some("http://upper:1".into()),
            "NO_PROXY" => Some("localhost".into()),
            "SSL_CERT_DIR" => Some("".into()),
            _ => None,
        };
        let settings = NetworkSettings::from_variables(lookup);
        assert_eq!(settings.https_proxy.as_deref(), Some("http://lower:1"));
        assert_eq!(settings.no_proxy.as_deref(), Some("localhost"));
        assert_eq!(settings.certificate_dir, None);
        settings.http_client().expect("bundled roots are enough");
    }

    #[test]
    fn a_named_store_without_certificates_is_an_error() {
        let settings =
            NetworkSettings { certificate_file: Some("/absent.pem".into()), ..NetworkSettings::default() };
        let error = settings.tls().expect_err("nothing there").to_string();
        assert!(error.starts_with("cannot read root certificates from SSL_CERT_FILE: "), "{error}");
    }

    #[test]
    fn a_bad_proxy_is_named_without_its_password() {
        let settings = NetworkSettings {
            https_proxy: Some("http://user:hunter2@[bad".into()),
            ..NetworkSettings::default()
        };
        let error = settings.http_client().expect_err("bad").to_string();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("hunter2"), "{error}");
    }
}
