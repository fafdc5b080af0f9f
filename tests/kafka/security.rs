//! TLS and SASL against a real broker: scores flow, a wrong password is told in words, and no password ever shows.

use std::time::{Duration, Instant};

use super::broker::{Cluster, PASSWORD, USER};
use super::service::{Options, PATIENCE, Road, Said, Vigie, run};
use super::traffic::{Ledger, Sender};

const WRONG: &str = "wrong-horse";

fn properties(cluster: &Cluster, mechanism: &str, password: &str) -> Vec<String> {
    vec![
        "security.protocol=SASL_SSL".to_owned(),
        format!("sasl.mechanism={mechanism}"),
        format!("sasl.username={USER}"),
        format!("sasl.password={password}"),
        format!("ssl.ca.location={}", cluster.certificate().display()),
    ]
}

fn check(road: &Road, properties: &[String]) -> Said {
    let flags: Vec<&str> = properties.iter().flat_map(|property| ["-X", property]).collect();
    let said = run(road, "check", &flags);
    for secret in [PASSWORD, WRONG] {
        assert!(!said.out.contains(secret) && !said.err.contains(secret), "a password is printed");
    }
    said
}

#[test]
fn scores_flow_over_tls_with_plain_and_scram() {
    let cluster = Cluster::start_secure();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    for (mechanism, password) in [("PLAIN", PASSWORD.to_owned()), ("SCRAM-SHA-512", format!("@{}", file.display()))] {
        let plain = Road::new(&cluster, &mechanism.to_lowercase());
        let road = Road { brokers: cluster.secure_broker(), ..plain.clone() };
        let right = properties(&cluster, mechanism, &password);
        // A broker that just came up refuses SCRAM until it has read the users.
        let deadline = Instant::now() + PATIENCE;
        while check(&road, &right).code != Some(0) {
            let said = check(&road, &right);
            assert!(Instant::now() < deadline, "{mechanism}: {}{}", said.out, said.err);
            std::thread::sleep(Duration::from_millis(500));
        }

        let options = right.iter().fold(Options::new(), |options, property| options.flag("-X", property));
        let mut ledger = Ledger::new(&cluster, &plain, "read_committed");
        let service = Vigie::start_ready(&road, &options);
        Sender::new(&cluster, &plain).send(500);
        ledger.wait_for(500);
        let log = service.log_tail();
        assert!(!log.contains(PASSWORD), "the password is in the log");
        service.stop_well();
        assert_eq!(ledger.settle(500), 0);

        let said = check(&road, &properties(&cluster, mechanism, WRONG));
        assert_eq!(said.code, Some(1));
        assert!(said.out.contains("Authentication failed"), "{mechanism}: {}", said.out);
        assert!(said.out.contains("hint: "), "{}", said.out);
    }
    no_trust_is_told(&cluster);
    plain_text_at_a_tls_port_is_told(&cluster);
}

fn no_trust_is_told(cluster: &Cluster) {
    let road = Road { brokers: cluster.secure_broker(), ..Road::without_topics(cluster, "untrusted") };
    let mut properties = properties(cluster, "PLAIN", PASSWORD);
    properties.pop();
    let said = check(&road, &properties);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("certificate"), "{}", said.out);
}

fn plain_text_at_a_tls_port_is_told(cluster: &Cluster) {
    let road = Road { brokers: cluster.secure_broker(), ..Road::without_topics(cluster, "cleartext") };
    let said = check(&road, &[]);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("security.protocol"), "{}", said.out);
}
