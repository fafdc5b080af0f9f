//! Starts Apache Kafka (KRaft) from its jars: how many nodes in, a running cluster out, gone when it is dropped or the tests end in any way.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::proxy::Proxy;

const START: Duration = Duration::from_secs(240);
const ADMIN: Duration = Duration::from_secs(30);

/// User of the SASL listener.
pub const USER: &str = "vigie";
pub const PASSWORD: &str = "correct-horse-battery-staple";

/// The broker that all tests share which leave it in peace.
pub fn shared() -> &'static Cluster {
    static SHARED: LazyLock<Cluster> = LazyLock::new(|| match std::env::var("VIGIE_TEST_BROKERS") {
        Ok(brokers) => Cluster {
            nodes: Vec::new(),
            brokers,
            proxied_brokers: String::new(),
            folder: PathBuf::new(),
            _janitor: None,
        },
        Err(_) => Cluster::start(1),
    });
    &SHARED
}

/// A cluster of combined brokers and controllers.
pub struct Cluster {
    nodes: Vec<Node>,
    brokers: String,
    proxied_brokers: String,
    folder: PathBuf,
    // Dropped last: removes the folder.
    _janitor: Option<Janitor>,
}

/// One broker of a cluster.
struct Node {
    folder: PathBuf,
    running: Option<Running>,
    disk: Option<Disk>,
    proxy: Option<Proxy>,
}

/// What a cluster has beyond plain brokers.
#[derive(Debug, Clone, Copy, Default)]
struct Extras {
    has_sasl: bool,
    has_proxies: bool,
    /// The topic that transactions need can't be made, as on a single broker with the settings of three.
    has_no_transactions: bool,
    /// MiB of the last node's disk.
    small_disk: Option<u32>,
}

/// A file system in memory over a folder, seen only inside a name space that a process of ours holds; gone with it and with those who use it.
/// Needs no root where users may make name spaces.
struct Disk {
    holder: Child,
    folder: PathBuf,
}

impl Disk {
    fn mount(folder: &Path, n_mib: u32) -> Result<Disk, String> {
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg(format!("trap '' INT; mount -t tmpfs -o size={n_mib}m none \"$0\" && echo mounted && cat >/dev/null"))
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said.trim() == "mounted" {
            return Ok(Disk { holder, folder: folder.to_owned() });
        }
        let output = holder.wait_with_output().unwrap();
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// What goes before a command that must see the disk.
    fn prefix(&self) -> [String; 6] {
        let target = self.holder.id().to_string();
        ["nsenter", "--preserve-credentials", "--user", "--mount", "--target", &target].map(str::to_owned)
    }

    fn run(&self, script: &str) {
        let [program, arguments @ ..] = self.prefix();
        let mut command = Command::new(program);
        command.args(arguments).args(["sh", "-c", script]).arg(self.folder.join("filler"));
        command.stderr(Stdio::null()).status().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // Nothing to be done in a drop when it fails.
        let _ = self.holder.wait();
    }
}

/// A process and the shell that kills it once we let go of the shell's standard input, be it by dying.
struct Running {
    pid: u32,
    guard: Child,
}

struct Janitor(Child);

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing to be done in a drop when it fails.
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

#[derive(Clone, Copy)]
struct Ports {
    plain: u16,
    sasl: u16,
    controller: u16,
    /// Where the broker listens for those who come through the proxy, and the proxy.
    far: u16,
    proxy: u16,
}

impl Cluster {
    /// Starts `n_nodes` nodes and waits until they answer.
    pub fn start(n_nodes: usize) -> Cluster {
        Cluster::start_with(n_nodes, Extras::default()).unwrap()
    }

    /// Starts nodes that can also be reached through proxies, at [`Cluster::proxied_brokers`].
    pub fn start_with_proxies(n_nodes: usize) -> Cluster {
        Cluster::start_with(n_nodes, Extras { has_proxies: true, ..Extras::default() }).unwrap()
    }

    /// Starts one node that cannot do transactions.
    pub fn start_without_transactions() -> Cluster {
        Cluster::start_with(1, Extras { has_no_transactions: true, ..Extras::default() }).unwrap()
    }

    /// Starts three nodes, the last with a disk of so many MiB. Fails with the reason where none can be mounted.
    pub fn start_with_small_disk(n_mib: u32) -> Result<Cluster, String> {
        Cluster::start_with(3, Extras { small_disk: Some(n_mib), ..Extras::default() })
    }

    /// Starts one node that also listens with TLS and SASL (PLAIN and SCRAM-SHA-512).
    pub fn start_secure() -> Cluster {
        Cluster::start_with(1, Extras { has_sasl: true, ..Extras::default() }).unwrap()
    }

    fn start_with(n_nodes: usize, extras: Extras) -> Result<Cluster, String> {
        let folder = tempfile::Builder::new().prefix("vigie-kafka-").tempdir().unwrap().keep();
        let janitor = Command::new("sh")
            .args(["-c", "trap '' INT; cat >/dev/null; sleep 1; rm -rf \"$0\" || { sleep 2; rm -rf \"$0\"; }"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let janitor = Some(Janitor(janitor));
        let ports: Vec<Ports> = (0..n_nodes).map(|_| Ports::free()).collect();
        if extras.has_sasl {
            make_certificate(&folder);
        }
        let log4j = "rootLogger.level=INFO\nrootLogger.appenderRef.out.ref=out\nappender.out.type=Console\nappender.out.name=out\n\
            appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d{ISO8601} %p %c{1} %m%n\n";
        std::fs::write(folder.join("log4j2.properties"), log4j).unwrap();
        let mut nodes = Vec::new();
        let mut formatting = Vec::new();
        for (index, own) in ports.iter().enumerate() {
            let node = folder.join(format!("node-{}", index + 1));
            std::fs::create_dir_all(node.join("data")).unwrap();
            std::fs::write(node.join("server.properties"), properties(&folder, &ports, index, extras)).unwrap();
            let size = extras.small_disk.filter(|_| index + 1 == n_nodes);
            let disk = size.map(|n_mib| Disk::mount(&node.join("data"), n_mib)).transpose()?;
            let node = Node {
                folder: node,
                running: None,
                disk,
                proxy: extras.has_proxies.then(|| Proxy::start(own.proxy, own.far)),
            };
            formatting.push(format(&node, extras.has_sasl));
            nodes.push(node);
        }
        for formatted in formatting {
            let output = formatted.wait_with_output().unwrap();
            assert!(output.status.success(), "kafka storage format: {}", String::from_utf8_lossy(&output.stderr));
        }
        let list = |port: fn(&Ports) -> u16| {
            ports.iter().map(|ports| format!("127.0.0.1:{}", port(ports))).collect::<Vec<String>>().join(",")
        };
        let (brokers, proxied_brokers) = (list(|ports| ports.plain), list(|ports| ports.proxy));
        let mut cluster = Cluster { nodes, brokers, proxied_brokers, folder, _janitor: janitor };
        (0..n_nodes).for_each(|index| cluster.launch(index));
        cluster.wait_for_brokers(n_nodes);
        Ok(cluster)
    }

    /// Bootstrap servers through the proxies.
    pub fn proxied_brokers(&self) -> &str {
        &self.proxied_brokers
    }

    /// The proxies, one a node.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.nodes.iter().filter_map(|node| node.proxy.as_ref())
    }

    /// Fills the last node's small disk to the last byte.
    pub fn fill_disk(&self) {
        self.small_disk().run("cat /dev/zero >\"$0\"");
    }

    /// Makes room on it again.
    pub fn free_disk(&self) {
        self.small_disk().run("rm \"$0\"");
    }

    fn small_disk(&self) -> &Disk {
        self.nodes.last().and_then(|node| node.disk.as_ref()).expect("the last node has a small disk")
    }

    /// Says whether a node answers.
    pub fn is_up(&self, index: usize) -> bool {
        let address = self.brokers.split(',').nth(index).unwrap();
        std::net::TcpStream::connect(address).is_ok()
    }

    /// Bootstrap servers without security.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Bootstrap server with TLS and SASL.
    pub fn secure_broker(&self) -> String {
        let properties = std::fs::read_to_string(self.nodes[0].folder.join("server.properties")).unwrap();
        let (_, rest) = properties.split_once("SASL_SSL://").unwrap();
        rest.split(',').next().unwrap().to_owned()
    }

    /// The certificate that clients have to trust, as a PEM file.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("broker.pem")
    }

    /// Starts a node that was stopped or killed.
    pub fn launch(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let mut guard = Command::new("sh")
            // The log is `$0`. Background jobs of a shell read nothing, so standard input stays ours.
            .args([
                "-c",
                "trap '' INT; \"$@\" >>\"$0\" 2>&1 & echo $!; cat >/dev/null; kill -9 $! 2>/dev/null; wait $!",
            ])
            .arg(node.folder.join("broker.log"))
            .args(node.disk.iter().flat_map(Disk::prefix))
            .args(["java", "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:-UsePerfData"])
            .arg(format!("-Dlog4j2.configurationFile={}", self.folder.join("log4j2.properties").display()))
            .args(["-cp", &class_path(), "kafka.Kafka"])
            .arg(node.folder.join("server.properties"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The shell would tell of each kill.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        node.running = Some(Running { pid: pid.trim().parse().unwrap(), guard });
    }

    /// Sends a node a signal by name.
    pub fn signal(&self, index: usize, name: &str) {
        signal(self.nodes[index].running.as_ref().expect("the node runs").pid, name);
    }

    /// Kills a node like a power cut.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].running = None;
    }

    /// Starts a killed node again and waits until it has what it missed, so that the next may be killed.
    pub fn restart(&mut self, index: usize) {
        self.launch(index);
        // Until then others may still count it among the replicas in sync.
        let deadline = Instant::now() + START;
        while !self.is_up(index) {
            assert!(Instant::now() < deadline, "broker did not come up:\n{}", self.log_tails());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.wait_until_in_sync();
    }

    /// Waits until every partition has a leader and all its replicas are in sync.
    pub fn wait_until_in_sync(&self) {
        let client: BaseConsumer = self.client().create().unwrap();
        let deadline = Instant::now() + START;
        let is_in_sync = || {
            let metadata = client.fetch_metadata(None, Duration::from_secs(2)).ok()?;
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            let all = partitions
                .all(|partition| partition.leader() > 0 && partition.isr().len() == partition.replicas().len());
            (all && metadata.brokers().len() == self.nodes.len()).then_some(())
        };
        while is_in_sync().is_none() {
            assert!(Instant::now() < deadline, "replicas are not in sync:\n{}", self.log_tails());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Starts whatever is dead and wakes whatever is paused.
    pub fn heal(&mut self) {
        for index in 0..self.nodes.len() {
            match &self.nodes[index].running {
                Some(running) => signal(running.pid, "CONT"),
                None => self.launch(index),
            }
        }
        self.wait_until_in_sync();
    }

    /// Which node is the active controller, by the newest claim in the nodes' logs, and its epoch.
    pub fn controller(&self) -> (usize, u64) {
        const CLAIM: &str = "Becoming the active controller at epoch ";
        let claims = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let log = std::fs::read_to_string(node.folder.join("broker.log")).ok()?;
            let claim = log.lines().rev().find_map(|line| line.split_once(CLAIM))?.1;
            let epoch = claim.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
            Some((index, epoch))
        });
        claims.max_by_key(|&(_, epoch)| epoch).expect("some node is the controller")
    }

    /// Waits until so many brokers are known.
    pub fn wait_for_brokers(&self, n_brokers: usize) {
        let client: BaseConsumer = self.client().create().unwrap();
        let deadline = Instant::now() + START;
        loop {
            match client.fetch_metadata(None, Duration::from_secs(1)) {
                Ok(metadata) if metadata.brokers().len() >= n_brokers => return,
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
                found => panic!(
                    "{n_brokers} brokers did not come up: {:?}\n{}",
                    found.map(|metadata| metadata.brokers().len()),
                    self.log_tails()
                ),
            }
        }
    }

    /// The leader of each partition of a topic; -1 for none.
    pub fn leaders(&self, topic: &str) -> Vec<i32> {
        let client: BaseConsumer = self.client().create().unwrap();
        let metadata = client.fetch_metadata(Some(topic), ADMIN).unwrap();
        metadata.topics()[0].partitions().iter().map(|partition| partition.leader()).collect()
    }

    fn log_tails(&self) -> String {
        let tail = |node: &Node| {
            let log = std::fs::read_to_string(node.folder.join("broker.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        self.nodes.iter().map(tail).collect::<Vec<String>>().join("\n---\n")
    }

    /// A client configuration with these brokers and no noise.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Emerg);
        config.set("bootstrap.servers", &self.brokers).set("reconnect.backoff.max.ms", "1000").set("log_level", "0");
        config
    }

    fn admin<T>(&self, work: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> T) -> T {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let options = AdminOptions::new().request_timeout(Some(ADMIN)).operation_timeout(Some(ADMIN));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(work(&admin, &options))
    }

    /// Makes a topic with as many replicas as there are nodes, three at most.
    pub fn create_topic(&self, name: &str, n_partitions: i32, config: &[(&str, &str)]) {
        let replication = TopicReplication::Fixed(self.nodes.len().clamp(1, 3) as i32);
        let topic = config
            .iter()
            .fold(NewTopic::new(name, n_partitions, replication), |topic, (key, value)| topic.set(key, value));
        let results = self.admin(async |admin, options| admin.create_topics([&topic], options).await.unwrap());
        results.into_iter().for_each(|result| drop(result.unwrap()));
        // The controller has it; brokers hear of it a moment later.
        let deadline = Instant::now() + ADMIN;
        while self.leaders(name).len() != n_partitions as usize || self.leaders(name).contains(&-1) {
            assert!(Instant::now() < deadline, "topic {name} did not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Raises a topic's number of partitions.
    pub fn grow_topic(&self, name: &str, n_partitions: usize) {
        let partitions = NewPartitions::new(name, n_partitions);
        let results = self.admin(async |admin, options| admin.create_partitions([&partitions], options).await.unwrap());
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// Replaces a topic's settings; those not named go back to their defaults.
    pub fn configure_topic(&self, name: &str, config: &[(&str, &str)]) {
        let change = config
            .iter()
            .fold(AlterConfig::new(ResourceSpecifier::Topic(name)), |change, (key, value)| change.set(key, value));
        let results = self.admin(async |admin, options| admin.alter_configs([&change], options).await.unwrap());
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }
}

/// Sends a signal by name and number of the process.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]).status().unwrap();
    assert!(status.success(), "could not send {name} to {pid}");
}

/// A port outside of the range from which outgoing connections take theirs, so that a stopped broker's port stays free.
fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new(20_000 + (std::process::id() % 300) as u16 * 40));
    loop {
        let port = NEXT.fetch_add(1, Ordering::SeqCst);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn class_path() -> String {
    let folder = std::env::var_os("VIGIE_TEST_KAFKA_LIBS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/kafka"), PathBuf::from);
    let has_kafka = std::fs::read_dir(&folder).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("kafka_2.13-")))
    });
    assert!(
        has_kafka,
        "no jars of Apache Kafka in {}: run `make test` (it fetches them once), or name a broker in VIGIE_TEST_BROKERS",
        folder.display()
    );
    format!("{}/*", folder.canonicalize().unwrap().display())
}

fn format(node: &Node, has_sasl: bool) -> Child {
    let prefix = node.disk.iter().flat_map(Disk::prefix);
    let mut words = prefix.chain(["java".to_owned()]);
    let mut command = Command::new(words.next().expect("java at least"));
    command
        .args(words)
        .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &class_path()])
        // Any 16 bytes: "vigie-tests-0001".
        .args(["kafka.tools.StorageTool", "format", "-t", "dmlnaWUtdGVzdHMtMDAwMQ", "-c"])
        .arg(node.folder.join("server.properties"));
    if has_sasl {
        command.args(["--add-scram", &format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]")]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("java is installed by `make test`")
}

impl Ports {
    fn free() -> Ports {
        Ports { plain: free_port(), sasl: free_port(), controller: free_port(), far: free_port(), proxy: free_port() }
    }
}

fn properties(folder: &Path, ports: &[Ports], index: usize, extras: Extras) -> String {
    let (id, n_replicas, own) = (index + 1, ports.len().min(3), ports[index]);
    let secure = if extras.has_sasl { format!("SASL_SSL://127.0.0.1:{},", own.sasl) } else { String::new() };
    let far = if extras.has_proxies { format!("FAR://127.0.0.1:{},", own.far) } else { String::new() };
    let advertised = if extras.has_proxies {
        format!("advertised.listeners=FAR://127.0.0.1:{},PLAINTEXT://127.0.0.1:{}", own.proxy, own.plain)
    } else {
        String::new()
    };
    let n_in_sync = n_replicas.div_ceil(2);
    let voters: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(index, ports)| format!("{}@127.0.0.1:{}", index + 1, ports.controller))
        .collect();
    format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners={secure}{far}PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,SASL_SSL:SASL_SSL
{advertised}
log.dirs={folder}/node-{id}/data
auto.create.topics.enable=false
default.replication.factor={n_replicas}
min.insync.replicas={n_in_sync}
offsets.topic.replication.factor={n_replicas}
offsets.topic.num.partitions=6
transaction.state.log.replication.factor={n_transaction_replicas}
transaction.state.log.min.isr={n_in_sync}
transaction.state.log.num.partitions=6
group.initial.rebalance.delay.ms=0
leader.imbalance.check.interval.seconds=5
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
{sasl}",
        n_transaction_replicas = if extras.has_no_transactions { n_replicas + 1 } else { n_replicas },
        voters = voters.join(","),
        plain = own.plain,
        sasl = if extras.has_sasl { sasl_properties(folder) } else { String::new() },
        controller = own.controller,
        folder = folder.display(),
    )
}

fn sasl_properties(folder: &Path) -> String {
    format!(
        "ssl.keystore.type=PKCS12
ssl.keystore.location={folder}/broker.p12
ssl.keystore.password=changeit
ssl.key.password=changeit
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
",
        folder = folder.display(),
    )
}

fn make_certificate(folder: &Path) {
    let keytool = |arguments: &[&str]| {
        let output = Command::new("keytool")
            .args(arguments)
            .args(["-alias", "broker", "-storetype", "PKCS12", "-storepass", "changeit", "-keystore"])
            .arg(folder.join("broker.p12"))
            .output()
            .expect("keytool comes with java");
        assert!(output.status.success(), "keytool: {}", String::from_utf8_lossy(&output.stdout));
    };
    let names = "SAN=dns:localhost,ip:127.0.0.1";
    keytool(&["-genkeypair", "-keyalg", "EC", "-dname", "CN=localhost", "-ext", names, "-validity", "30"]);
    let pem = folder.join("broker.pem").display().to_string();
    keytool(&["-exportcert", "-rfc", "-file", &pem]);
}
