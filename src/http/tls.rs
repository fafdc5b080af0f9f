//! Makes connections secret and, where the settings say so, clients prove who they are: PEM files in, a TLS acceptor out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config::HttpSettings;

/// Why the server cannot speak TLS. Holds paths and never what a file holds.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("setting http.{given} needs http.{missing}")]
    Half { given: &'static str, missing: &'static str },
    #[error("could not read {what} {}", path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} holds no {what}", path.display())]
    Nothing { what: &'static str, path: PathBuf },
    #[error("{what} {} cannot be used", path.display())]
    Unusable { what: &'static str, path: PathBuf, source: rustls::Error },
    #[error("client authority {} cannot be used", path.display())]
    ClientAuthority { path: PathBuf, source: rustls::server::VerifierBuilderError },
}

impl TlsError {
    /// The next step for the person who started the program.
    pub fn hint(&self) -> &'static str {
        match self {
            TlsError::Half { given: "tls_client_ca", .. } => {
                "clients can only be asked for a certificate over TLS: set http.tls_certificate and http.tls_key too"
            }
            TlsError::Half { .. } => "set both http.tls_certificate and http.tls_key, or neither for plain http",
            TlsError::Unreadable { .. } => "check the path, and give this user the right to read the file",
            TlsError::Nothing { .. } => {
                "it must be PEM: the certificate with its chain, or an unencrypted key, between BEGIN and END lines"
            }
            TlsError::Unusable { .. } => {
                "the key must belong to the certificate: `openssl x509 -noout -pubkey -in CERTIFICATE` and `openssl pkey -pubout -in KEY` print the same"
            }
            TlsError::ClientAuthority { .. } => {
                "http.tls_client_ca takes the certificates of the authorities that sign client certificates, in PEM"
            }
        }
    }
}

/// Reads the certificate, its key and the authority of the clients; `None` when the settings name none of them.
pub fn acceptor(settings: &HttpSettings) -> Result<Option<TlsAcceptor>, TlsError> {
    let named = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
    let (certificate, key) = (named(&settings.tls_certificate), named(&settings.tls_key));
    let client_ca = named(&settings.tls_client_ca);
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err(TlsError::Half { given: "tls_certificate", missing: "tls_key" }),
        (None, Some(_)) => return Err(TlsError::Half { given: "tls_key", missing: "tls_certificate" }),
        (None, None) if client_ca.is_some() => {
            return Err(TlsError::Half { given: "tls_client_ca", missing: "tls_certificate" });
        }
        (None, None) => return Ok(None),
    };
    let chain = certificates("certificate", &certificate)?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unread("private key", &key, error))?;
    // The provider is named: the one of the process would be whatever another library has set.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |source| TlsError::Unusable { what: "certificate", path: certificate.clone(), source };
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates("client authority", &path)? {
                let refused = |source| TlsError::Unusable { what: "client authority", path: path.clone(), source };
                roots.add(authority).map_err(refused)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.map_err(|source| TlsError::ClientAuthority { path, source })?)
        }
    };
    let mut config = config.with_single_cert(chain, secret).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unread(what, path, error))?;
    match found.is_empty() {
        true => Err(TlsError::Nothing { what, path: path.to_owned() }),
        false => Ok(found),
    }
}

fn unread(what: &'static str, path: &Path, error: PemError) -> TlsError {
    let path = path.to_owned();
    match error {
        PemError::Io(source) => TlsError::Unreadable { what, path, source },
        // The parser's own words could quote the file.
        _ => TlsError::Nothing { what, path },
    }
}
