//! Connections to the HTTP server from outside: what a slow or greedy client may take, and who is let in over TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use vigie::config::HttpSettings;
use vigie::http::{HttpError, TlsError};

use crate::http::{Running, settings, start, try_start, until};

const LIVE: &[u8] = b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

fn connect(server: &Running) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[test]
fn a_client_that_never_finishes_a_head_is_closed() {
    let server = start(HttpSettings { header_timeout_ms: 100, ..settings() });
    for begun in [&b""[..], b"GET /live HT", b"POST /score HTTP/1.1\r\nhost: x\r\nx-slow: 1"] {
        let mut stream = connect(&server);
        stream.write_all(begun).unwrap();
        let mut answer = Vec::new();
        // Closed in silence or with a 408, but closed: an end comes before the test's own limit.
        stream.read_to_end(&mut answer).unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    // The same limit ends a connection that is kept and not used.
    let mut stream = connect(&server);
    stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn connections_beyond_the_bound_wait_for_a_place() {
    let server = start(HttpSettings { max_connections: 1, ..settings() });
    let mut first = connect(&server);
    first.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    first.read_exact(&mut [0; 12]).unwrap();
    let mut second = connect(&server);
    second.write_all(LIVE).unwrap();
    second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let refused = second.read(&mut [0; 12]).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{refused}");
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_client_that_does_not_read_its_answers_loses_its_place() {
    let server = start(HttpSettings { max_connections: 1, timeout_ms: 500, ..settings() });
    let body = json!(vec![""; 1000]).to_string();
    let request = format!(
        "POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut greedy = connect(&server);
    greedy.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    // Until neither side takes any more: the server waits for a reader.
    while greedy.write_all(request.as_bytes()).is_ok() {}
    let mut next = connect(&server);
    next.write_all(LIVE).unwrap();
    let mut answer = String::new();
    next.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// An authority, a certificate of the server and one of a client, on disk as settings name them.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Certificates {
        let made = Certificates { folder: tempfile::tempdir().unwrap() };
        for name in ["ours", "others"] {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            made.write(&format!("{name}.ca"), &authority.pem());
            for (who, purpose) in
                [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
            {
                let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
                params.extended_key_usages = vec![purpose];
                let key = KeyPair::generate().unwrap();
                made.write(&format!("{name}.{who}.pem"), &params.signed_by(&key, &authority).unwrap().pem());
                made.write(&format!("{name}.{who}.key"), &key.serialize_pem());
            }
        }
        made
    }

    fn write(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.named(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn named(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn settings(&self) -> HttpSettings {
        HttpSettings {
            tls_certificate: self.named("ours.server.pem"),
            tls_key: self.named("ours.server.key"),
            ..settings()
        }
    }

    /// Asks `/live` as a client that trusts our authority and shows a certificate, if it has one. What came back, empty for nothing.
    fn ask(&self, server: &Running, shown: Option<&str>) -> String {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ours.ca")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap()];
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(session, connect(server));
        let mut answer = Vec::new();
        // A server that lets nobody in breaks the connection off.
        let _ = stream.write_all(LIVE).and_then(|()| stream.read_to_end(&mut answer));
        String::from_utf8(answer).unwrap()
    }
}

#[test]
fn over_tls_nobody_is_answered_in_the_clear() {
    let certificates = Certificates::new();
    let server = start(certificates.settings());
    assert!(certificates.ask(&server, None).starts_with("HTTP/1.1 200"));
    let mut plain = connect(&server);
    plain.write_all(LIVE).unwrap();
    let mut answer = Vec::new();
    // An alert or nothing at all.
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/"), "{answer:?}");
}

#[test]
fn with_a_client_authority_only_its_clients_are_answered() {
    let certificates = Certificates::new();
    let server = start(HttpSettings { tls_client_ca: certificates.named("ours.ca"), ..certificates.settings() });
    assert!(certificates.ask(&server, Some("ours.client")).starts_with("HTTP/1.1 200"));
    assert_eq!(certificates.ask(&server, None), "");
    assert_eq!(certificates.ask(&server, Some("others.client")), "");
    // A certificate for servers is none for clients.
    assert_eq!(certificates.ask(&server, Some("ours.server")), "");
}

#[test]
fn a_handshake_that_never_ends_is_given_up() {
    let certificates = Certificates::new();
    let server = start(HttpSettings { max_connections: 1, header_timeout_ms: 200, ..certificates.settings() });
    let _silent = connect(&server);
    until("the silent client keeps its place", || certificates.ask(&server, None).starts_with("HTTP/1.1 200"));
}

#[test]
fn tls_settings_that_cannot_work_say_why() {
    let certificates = Certificates::new();
    let right = certificates.settings();
    let empty = certificates.write("empty.pem", "not PEM");
    let check = |settings: HttpSettings, is_expected: fn(&TlsError) -> bool, words: &str| {
        let Err(HttpError::Tls(error)) = try_start(&settings) else { panic!("started: {words}") };
        assert!(is_expected(&error) && error.to_string().contains(words) && !error.hint().is_empty(), "{error:?}");
    };
    let missing = Path::new("/nowhere/key.pem").display().to_string();
    check(
        HttpSettings { tls_key: String::new(), ..right.clone() },
        |error| matches!(error, TlsError::Half { .. }),
        "http.tls_certificate needs http.tls_key",
    );
    check(
        HttpSettings { tls_client_ca: certificates.named("ours.ca"), ..settings() },
        |error| matches!(error, TlsError::Half { .. }),
        "http.tls_client_ca needs http.tls_certificate",
    );
    check(
        HttpSettings { tls_key: missing, ..right.clone() },
        |error| matches!(error, TlsError::Unreadable { .. }),
        "could not read private key /nowhere/key.pem",
    );
    check(
        HttpSettings { tls_certificate: empty.clone(), ..right.clone() },
        |error| matches!(error, TlsError::Nothing { .. }),
        "holds no certificate",
    );
    check(
        HttpSettings { tls_key: certificates.named("others.server.key"), ..right.clone() },
        |error| matches!(error, TlsError::Unusable { .. }),
        "cannot be used",
    );
    check(
        HttpSettings { tls_client_ca: empty, ..right },
        |error| matches!(error, TlsError::Nothing { .. }),
        "holds no client authority",
    );
}
