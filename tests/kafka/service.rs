//! Runs the `vigie` program: arguments in, a process to watch, to signal and to kill out.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::broker::{Cluster, signal};

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Topics and group of one test, so that tests share a broker without meeting.
#[derive(Debug, Clone)]
pub struct Road {
    pub brokers: String,
    pub name: String,
    pub input: String,
    pub output: String,
    pub dead: String,
}

impl Road {
    /// Makes the three topics with six partitions each.
    pub fn new(cluster: &Cluster, name: &str) -> Road {
        let road = Road::without_topics(cluster, name);
        // Of the input a broker takes what the service must refuse.
        cluster.create_topic(&road.input, 6, &[("max.message.bytes", "8000000")]);
        cluster.create_topic(&road.output, 6, &[]);
        cluster.create_topic(&road.dead, 6, &[("max.message.bytes", "8000000")]);
        road
    }

    /// Only the names. Unique, because a broker that is there already remembers earlier runs.
    pub fn without_topics(cluster: &Cluster, name: &str) -> Road {
        let name = format!("{name}-{}", std::process::id());
        let topic = |what: &str| format!("{name}.{what}");
        Road {
            brokers: cluster.brokers().to_owned(),
            input: topic("in"),
            output: topic("scores"),
            dead: topic("dead"),
            name,
        }
    }

    /// Flags that name broker, group and topics.
    pub fn flags(&self) -> Vec<String> {
        [
            ("--brokers", &self.brokers),
            ("--group", &self.name),
            ("--input-topic", &self.input),
            ("--output-topic", &self.output),
            ("--dead-letter-topic", &self.dead),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.clone()])
        .collect()
    }
}

/// The program with a clean environment and nothing of ours in its working folder.
pub fn vigie(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vigie"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(folder.path());
    command
}

/// What a command that ends by itself said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command of the program on a road to its end.
pub fn run(road: &Road, command: &str, flags: &[&str]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let output = vigie(&folder).arg(command).args(road.flags()).args(flags).output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// How a service runs.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub flags: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    /// Of the transactional id, what tells instances of one road apart.
    transactional: Option<String>,
}

impl Options {
    /// At least once, members without names.
    pub fn new() -> Options {
        Options::default()
    }

    /// Transactions, under an id that a restarted process keeps.
    ///
    /// Not by static membership: when the group's coordinator dies Kafka can take a static member for its own double and end it.
    pub fn exactly_once(instance: &str) -> Options {
        Options { transactional: Some(instance.to_owned()), ..Options::new().flag("--delivery", "exactly-once") }
    }

    /// Static membership.
    pub fn named(self, instance: &str) -> Options {
        self.env("VIGIE_INSTANCE_ID", instance)
    }

    pub fn flag(mut self, flag: &str, value: impl Into<String>) -> Options {
        self.flags.extend([flag.to_owned(), value.into()]);
        self
    }

    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Options {
        self.environment.push((name, value.into()));
        self
    }
}

/// A running `vigie serve`. Dropping it kills it.
pub struct Vigie {
    child: Child,
    folder: TempDir,
    address: String,
}

impl Drop for Vigie {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(folder) = std::env::var_os("VIGIE_TEST_LOGS") {
            let name = format!("vigie-{}.log", self.child.id());
            std::fs::copy(self.folder.path().join("log"), Path::new(&folder).join(name)).unwrap();
        }
        if std::thread::panicking() {
            eprintln!("---- vigie {} said at last:\n{}", self.child.id(), self.log_tail());
        }
    }
}

impl Vigie {
    /// Starts the service and waits until HTTP answers.
    pub fn start(road: &Road, options: &Options) -> Vigie {
        let folder = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = vigie(&folder)
            .arg("serve")
            .args(road.flags())
            .args(["--http", "127.0.0.1:0", "--log-format", "json"])
            .args(&options.flags)
            .envs(options.environment.iter().cloned())
            .envs(options.transactional.iter().map(|id| ("VIGIE_TRANSACTIONAL_ID", format!("{}-{id}", road.name))))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut service = Vigie { child, folder, address: String::new() };
        service.address = service.wait_for("that it listens", |service| {
            assert!(service.is_running(), "vigie ended:\n{}", service.log_tail());
            let line = service.log_lines().find(|line| line["message"] == "http listening")?;
            Some(line["address"].as_str()?.to_owned())
        });
        service
    }

    /// Starts the service and waits until it takes messages.
    pub fn start_ready(road: &Road, options: &Options) -> Vigie {
        let mut service = Vigie::start(road, options);
        service.wait_ready();
        service
    }

    /// Waits until `/ready` says yes.
    pub fn wait_ready(&mut self) {
        self.wait_for("that it is ready", |service| {
            assert!(service.is_running(), "vigie ended:\n{}", service.log_tail());
            service.is_ready().then_some(())
        });
    }

    pub fn is_ready(&self) -> bool {
        ureq::get(format!("http://{}/ready", self.address)).call().is_ok()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The metrics page; empty when it does not answer.
    pub fn metrics_page(&self) -> String {
        let answer = ureq::get(format!("http://{}/metrics", self.address)).call();
        answer.ok().and_then(|mut answer| answer.body_mut().read_to_string().ok()).unwrap_or_default()
    }

    /// The sum of a metric over its labels; 0 when it does not answer.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.metrics_page();
        let lines =
            page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until so many scores are published by this process.
    pub fn wait_published(&mut self, n_scores: u64) {
        self.wait_for("scores", |service| {
            (service.metric("vigie_scores_published_total") >= n_scores as f64).then_some(())
        });
    }

    /// Looks until there is something to be found.
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&mut Vigie) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Kills it without a word.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it and checks that all went well.
    pub fn stop_well(mut self) {
        self.signal("TERM");
        let status = self.wait_for("its end", |service| service.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "exit code after SIGTERM:\n{}", self.log_tail());
    }

    fn status(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap()
    }

    /// Resident memory in MiB.
    pub fn memory_mib(&self) -> f64 {
        self.status("VmRSS") / 1024.0
    }

    pub fn n_threads(&self) -> usize {
        self.status("Threads") as usize
    }

    /// Open file handles.
    pub fn n_handles(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// All it said so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its log lines so far.
    pub fn log_lines(&self) -> impl Iterator<Item = Value> + use<> {
        let log = self.log_text();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>().into_iter()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = self.log_text();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}
