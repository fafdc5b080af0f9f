//! The long fault suite: three brokers, every fault that we can make, and a table of what it cost. `make test-faults` runs it.
//!
//! `VIGIE_FAULTS_OUT` names the Markdown file for the table, `VIGIE_FAULTS_SEED` another seed, `VIGIE_FAULTS_ONLY` a word that the names of
//! the faults to try hold.

use std::fmt::Write as _;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use vigie::models::builtin_bytes;
use vigie::models::registry::Registry;
use vigie::scoring::Artifact;

use super::broker::Cluster;
use super::proxy::Proxy;
use super::service::{Options, PATIENCE, Road, Vigie, vigie};
use super::traffic::{Ledger, Sender, lag, read_all};

/// Messages that a suite without `VIGIE_FAULTS_ONLY` must have sent.
const N_WANTED: u64 = 500_000;
const A_ROUND: u64 = 6_000;

/// What a fault did to the service.
#[derive(Debug, Default)]
struct Row {
    n_rounds: u32,
    n_messages: u64,
    n_twice: u64,
    slowest: Option<Duration>,
    /// First and last measured, where one process lived through it all: MiB and file handles.
    memory: Option<(f64, f64)>,
    handles: Option<(usize, usize)>,
    note: String,
}

struct Suite {
    cluster: Cluster,
    dice: Dice,
    n_roads: u32,
}

/// SplitMix64: the same seed, the same moments.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

type Fault = fn(&mut Suite) -> Row;

const FAULTS: [(&str, &str, Fault); 23] = [
    ("SIGKILL of the service at random moments", "at least once", |suite| {
        suite.kills(30, &Options::new().named("a"), false)
    }),
    ("SIGKILL of the service at random moments", "exactly once", |suite| {
        suite.kills(15, &Options::exactly_once("a").named("a"), true)
    }),
    ("SIGTERM of the service under load", "at least once", |suite| suite.stops(10, &Options::new())),
    ("SIGTERM of the service under load", "exactly once", |suite| suite.stops(5, &Options::exactly_once("a"))),
    ("brokers killed and restarted in turn", "at least once", |suite| suite.brokers_die(&Options::new(), false)),
    ("brokers killed and restarted in turn", "exactly once", |suite| {
        suite.brokers_die(&Options::exactly_once("a"), true)
    }),
    ("active controller killed", "at least once", Suite::controllers_die),
    ("2 to 4 instances join and leave by SIGTERM", "at least once", |suite| suite.members(12, false, false)),
    ("2 to 4 instances join and die by SIGKILL", "at least once", |suite| suite.members(8, true, false)),
    ("2 to 4 instances join and die by SIGKILL", "exactly once", |suite| suite.members(6, true, true)),
    ("partitions added to the input topic", "at least once", Suite::partitions_added),
    ("output topic without enough replicas", "at least once", Suite::too_few_replicas),
    ("disk of one broker full", "at least once", Suite::disk_full),
    ("output topic refuses large records", "at least once", |suite| suite.output_refuses(&Options::new(), 1000)),
    ("output topic refuses large records", "exactly once", |suite| {
        suite.output_refuses(&Options::exactly_once("a"), 200)
    }),
    ("broker and service frozen (SIGSTOP), 3 to 12 s", "at least once", Suite::pauses),
    ("the only broker frozen (SIGSTOP), 12 s", "at least once", |suite| {
        suite.only_broker_pauses(&Options::new(), false)
    }),
    ("the only broker frozen (SIGSTOP), 12 s", "exactly once", |suite| {
        suite.only_broker_pauses(&Options::exactly_once("a"), true)
    }),
    ("network held up or cut between service and brokers", "at least once", |suite| {
        suite.network_pauses(&Options::new(), false)
    }),
    ("network held up or cut between service and brokers", "exactly once", |suite| {
        suite.network_pauses(&Options::exactly_once("a"), true)
    }),
    ("clock of the service jumps by hours", "at least once", |suite| suite.clock_jumps(&Options::new())),
    ("clock of the service jumps by hours", "exactly once", |suite| suite.clock_jumps(&Options::exactly_once("a"))),
    ("model promoted under load; senders' clocks wrong by years", "at least once", Suite::swaps_and_clocks),
];

#[test]
#[ignore = "takes a quarter of an hour: make test-faults"]
fn no_fault_loses_a_message() {
    let seed =
        std::env::var("VIGIE_FAULTS_SEED").map_or(5, |seed| seed.parse().expect("VIGIE_FAULTS_SEED is a number"));
    let only = std::env::var("VIGIE_FAULTS_ONLY").unwrap_or_default();
    let mut suite = Suite { cluster: Cluster::start_with_proxies(3), dice: Dice(seed), n_roads: 0 };
    let (began, mut rows, mut n_messages, mut failures) = (Instant::now(), String::new(), 0, Vec::new());
    for (fault, delivery, make) in FAULTS {
        if !format!("{fault} {delivery}").contains(&only) {
            continue;
        }
        let took = Instant::now();
        let tried = catch_unwind(AssertUnwindSafe(|| make(&mut suite)));
        let row = tried.map_or_else(
            |panic| {
                let why = panic.downcast_ref::<String>().map(String::as_str);
                let why = why.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panicked");
                failures.push(format!("{fault}, {delivery}: {why}"));
                format!("| {fault} | {delivery} | **failed**: {} |||||||", why.lines().next().unwrap_or_default())
            },
            |row| {
                n_messages += row.n_messages;
                row.line(fault, delivery)
            },
        );
        eprintln!("{row} {} s", took.elapsed().as_secs());
        writeln!(rows, "{row}").unwrap();
        suite.cluster.heal();
        let table = table(&rows, n_messages, seed, began.elapsed());
        if let Ok(file) = std::env::var("VIGIE_FAULTS_OUT") {
            std::fs::write(file, &table).unwrap();
        }
    }
    println!("{}", table(&rows, n_messages, seed, began.elapsed()));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(!only.is_empty() || n_messages >= N_WANTED, "only {n_messages} messages were sent");
}

fn table(rows: &str, n_messages: u64, seed: u64, took: Duration) -> String {
    let n_cores = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    format!(
        "| fault | delivery | rounds | messages | lost | scored twice | longest wait | memory | handles |\n\
         |---|---|--:|--:|--:|--:|--:|---|---|\n{rows}\n\
         {n_messages} messages in {} s, seed {seed}, {n_cores} cores, {profile} build, {}.\n",
        took.as_secs(),
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
    )
}

impl Row {
    fn line(&self, fault: &str, delivery: &str) -> String {
        let memory = self.memory.map_or("–".to_owned(), |(first, last)| format!("{first:.0} → {last:.0} MiB"));
        let handles = self.handles.map_or("–".to_owned(), |(first, last)| format!("{first} → {last}"));
        let slowest = self.slowest.map_or("–".to_owned(), |slowest| format!("{:.1} s", slowest.as_secs_f64()));
        let note = if self.note.is_empty() { String::new() } else { format!(" ({})", self.note) };
        format!(
            "| {fault}{note} | {delivery} | {} | {} | 0 | {} | {slowest} | {memory} | {handles} |",
            self.n_rounds, self.n_messages, self.n_twice,
        )
    }
}

/// What a process held when it was warm, to be compared with what it holds later.
struct Held {
    memory: f64,
    n_handles: usize,
}

impl Held {
    fn by(service: &mut Vigie) -> Held {
        service.wait_published(3000);
        Held { memory: service.memory_mib(), n_handles: service.n_handles() }
    }

    /// Fails when it grew beyond what the settings allow to be under way. A few handles come and go with connections.
    fn compare(self, service: &Vigie, row: &mut Row) {
        let (memory, n_handles) = (service.memory_mib(), service.n_handles());
        row.memory = Some((self.memory, memory));
        row.handles = Some((self.n_handles, n_handles));
        assert!(memory < self.memory + 96.0, "memory grew from {:.0} to {memory:.0} MiB", self.memory);
        assert!(n_handles < self.n_handles + 16, "handles grew from {} to {n_handles}", self.n_handles);
    }
}

/// Waits until all is scored, stops the service and settles the accounts: the row without its number of rounds.
fn settled(ledger: &mut Ledger, service: Vigie, held: Held, n_sent: u64, may_repeat: bool) -> Row {
    ledger.wait_for(n_sent);
    let mut row = Row { n_messages: n_sent, ..Row::default() };
    held.compare(&service, &mut row);
    service.stop_well();
    row.n_twice = ledger.settle(n_sent);
    assert!(may_repeat || row.n_twice == 0, "{} scores came twice", row.n_twice);
    row.slowest = Some(ledger.slowest());
    row
}

impl Suite {
    fn road(&mut self) -> Road {
        self.n_roads += 1;
        let road = Road::new(&self.cluster, &format!("faults-{}", self.n_roads));
        // Waiting begins when the broker has the message: a sender that waits for a leader is not ours to judge.
        self.cluster.configure_topic(&road.input, &[("message.timestamp.type", "LogAppendTime")]);
        road
    }

    fn kills(&mut self, n_rounds: u32, options: &Options, is_exact: bool) -> Row {
        let road = self.road();
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let mut sender = Sender::new(&self.cluster, &road);
        let mut service = Vigie::start_ready(&road, options);
        for round in 0..n_rounds {
            let moment = self.dice.millis(0, 1500);
            let sending = std::thread::spawn(move || {
                sender.send(A_ROUND);
                sender
            });
            std::thread::sleep(moment);
            service.kill();
            sender = sending.join().unwrap();
            service = Vigie::start(&road, options);
            ledger.wait_for(sender.n_sent());
            if is_exact {
                assert_eq!(ledger.n_twice(), 0, "scores that came twice, round {round}");
            }
        }
        service.stop_well();
        let n_twice = ledger.settle(sender.n_sent());
        assert!(!is_exact || n_twice == 0, "{n_twice} scores came twice");
        assert_eq!(lag(&self.cluster, &road), 0);
        Row { n_rounds, n_messages: sender.n_sent(), n_twice, slowest: Some(ledger.slowest()), ..Row::default() }
    }

    fn stops(&mut self, n_rounds: u32, options: &Options) -> Row {
        let road = self.road();
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let mut sender = Sender::new(&self.cluster, &road);
        for _ in 0..n_rounds {
            let service = Vigie::start_ready(&road, options);
            let moment = self.dice.millis(0, 1000);
            sender.send(A_ROUND);
            std::thread::sleep(moment);
            service.stop_well();
        }
        let service = Vigie::start_ready(&road, options);
        ledger.wait_for(sender.n_sent());
        service.stop_well();
        let n_twice = ledger.settle(sender.n_sent());
        assert_eq!(n_twice, 0, "scores that came twice");
        Row { n_rounds, n_messages: sender.n_sent(), n_twice, slowest: Some(ledger.slowest()), ..Row::default() }
    }

    fn brokers_die(&mut self, options: &Options, is_exact: bool) -> Row {
        let road = self.road();
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let mut service = Vigie::start_ready(&road, options);
        let steady = Sender::new(&self.cluster, &road).go_on(1000);
        let held = Held::by(&mut service);
        let (mut n_moves, mut n_rounds) = (0, 0);
        for index in [0, 1, 2, 0, 1, 2] {
            let before = self.cluster.leaders(&road.output);
            self.cluster.kill(index);
            let down = self.dice.millis(2_000, 12_000);
            ledger.read_for(down);
            let after = self.cluster.leaders(&road.output);
            self.cluster.restart(index);
            ledger.read_for(Duration::from_secs(6));
            n_moves += before.iter().zip(&after).filter(|(before, after)| before != after).count();
            n_rounds += 1;
            assert!(service.is_running(), "vigie ended:\n{}", service.log_tail());
        }
        let n_sent = steady.stop().n_sent();
        Row {
            n_rounds,
            note: format!("{n_moves} leaders moved"),
            ..settled(&mut ledger, service, held, n_sent, !is_exact)
        }
    }

    fn controllers_die(&mut self) -> Row {
        let road = self.road();
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let mut service = Vigie::start_ready(&road, &Options::new());
        let steady = Sender::new(&self.cluster, &road).go_on(1000);
        let held = Held::by(&mut service);
        let n_rounds = 3;
        for _ in 0..n_rounds {
            let (index, epoch) = self.cluster.controller();
            self.cluster.kill(index);
            let deadline = Instant::now() + Duration::from_secs(60);
            while self.cluster.controller().1 == epoch {
                assert!(Instant::now() < deadline, "no new controller came up");
                ledger.read_for(Duration::from_millis(200));
            }
            self.cluster.restart(index);
            ledger.read_for(Duration::from_secs(4));
        }
        let n_sent = steady.stop().n_sent();
        Row { n_rounds, ..settled(&mut ledger, service, held, n_sent, true) }
    }

    fn members(&mut self, n_rounds: u32, by_kill: bool, is_exact: bool) -> Row {
        let road = self.road();
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let mut n_started = 0;
        let mut join = || {
            n_started += 1;
            let name = format!("member-{n_started}");
            let options = if is_exact { Options::exactly_once(&name) } else { Options::new() };
            Vigie::start_ready(&road, &options)
        };
        let mut members = vec![join(), join()];
        let steady = Sender::new(&self.cluster, &road).go_on(1000);
        for _ in 0..n_rounds {
            ledger.read_for(self.dice.millis(500, 3000));
            let leaves = members.len() == 4 || (members.len() > 2 && self.dice.below(2) == 0);
            if !leaves {
                members.push(join());
                continue;
            }
            let leaving = members.swap_remove(self.dice.below(members.len() as u64) as usize);
            if by_kill {
                leaving.kill();
            } else {
                leaving.stop_well();
            }
        }
        if by_kill {
            members.remove(0).kill();
        }
        let n_sent = steady.stop().n_sent();
        ledger.wait_for(n_sent);
        members.into_iter().for_each(Vigie::stop_well);
        let n_twice = ledger.settle(n_sent);
        assert!(!is_exact && by_kill || n_twice == 0, "{n_twice} scores came twice");
        Row { n_rounds, n_messages: n_sent, n_twice, slowest: Some(ledger.slowest()), ..Row::default() }
    }

    fn partitions_added(&mut self) -> Row {
        let road = self.road();
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        ledger.forget_order();
        let mut service = Vigie::start_ready(&road, &Options::new());
        let steady = Sender::new(&self.cluster, &road).go_on(1000);
        let held = Held::by(&mut service);
        self.cluster.grow_topic(&road.input, 9);
        ledger.read_for(Duration::from_secs(5));
        let mut sender = steady.stop();
        // A client that begins now knows the new partitions.
        sender = sender.reopened(&self.cluster);
        sender.send(A_ROUND);
        Row { n_rounds: 1, ..settled(&mut ledger, service, held, sender.n_sent(), false) }
    }

    fn too_few_replicas(&mut self) -> Row {
        let road = self.road();
        self.cluster.configure_topic(&road.output, &[("min.insync.replicas", "3")]);
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let mut service = Vigie::start_ready(&road, &Options::new());
        let steady = Sender::new(&self.cluster, &road).go_on(1000);
        let held = Held::by(&mut service);
        let n_rounds = 2;
        for index in 0..n_rounds {
            self.cluster.kill(index);
            ledger.read_for(Duration::from_secs(15));
            self.cluster.restart(index);
            ledger.read_for(Duration::from_secs(8));
        }
        let n_sent = steady.stop().n_sent();
        Row { n_rounds: n_rounds as u32, ..settled(&mut ledger, service, held, n_sent, true) }
    }

    fn output_refuses(&mut self, options: &Options, a_second: u64) -> Row {
        let road = self.road();
        let mut service = Vigie::start_ready(&road, options);
        let steady = Sender::new(&self.cluster, &road).go_on(a_second);
        let held = Held::by(&mut service);
        let n_rounds = 2;
        for _ in 0..n_rounds {
            // Smaller than some score records and larger than others.
            self.cluster.configure_topic(&road.output, &[("max.message.bytes", "420")]);
            std::thread::sleep(Duration::from_secs(2));
            self.cluster.configure_topic(&road.output, &[]);
            std::thread::sleep(Duration::from_secs(2));
        }
        let n_sent = steady.stop().n_sent();
        let deadline = Instant::now() + PATIENCE;
        while lag(&self.cluster, &road) > 0 {
            assert!(Instant::now() < deadline, "the lag stays:\n{}", service.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut row = Row { n_rounds, n_messages: n_sent, ..Row::default() };
        held.compare(&service, &mut row);
        service.stop_well();
        let (scores, letters) = (read_all(&self.cluster, &road.output), read_all(&self.cluster, &road.dead));
        assert!(letters.iter().all(|letter| letter.header("vigie-reason") == Some("output_too_large")));
        assert!(!letters.is_empty(), "nothing was refused");
        let mut n_times = vec![0_u32; n_sent as usize];
        for record in scores.iter().chain(&letters) {
            n_times[record.json()["id"].as_str().unwrap().parse::<usize>().unwrap()] += 1;
        }
        let n_missing = n_times.iter().filter(|n| **n == 0).count();
        assert_eq!(n_missing, 0, "messages with neither score nor dead letter");
        row.n_twice = n_times.iter().map(|n| u64::from(n - 1)).sum();
        row.note = format!("{} dead letters", letters.len());
        row
    }

    fn disk_full(&mut self) -> Row {
        let mut cluster = match Cluster::start_with_small_disk(96) {
            Ok(cluster) => cluster,
            // Only where users may not make name spaces.
            Err(why) => return Row { note: format!("not tried: {why}"), ..Row::default() },
        };
        let road = Road::new(&cluster, "disk");
        cluster.configure_topic(&road.input, &[("message.timestamp.type", "LogAppendTime")]);
        let mut ledger = Ledger::new(&cluster, &road, "read_committed");
        let mut service = Vigie::start_ready(&road, &Options::new());
        let steady = Sender::new(&cluster, &road).go_on(1000);
        let held = Held::by(&mut service);
        let n_rounds = 2;
        for _ in 0..n_rounds {
            cluster.fill_disk();
            let deadline = Instant::now() + Duration::from_secs(60);
            while cluster.is_up(2) {
                assert!(Instant::now() < deadline, "the broker lives on with a full disk");
                ledger.read_for(Duration::from_millis(100));
            }
            ledger.read_for(self.dice.millis(2_000, 8_000));
            cluster.kill(2);
            cluster.free_disk();
            cluster.restart(2);
            ledger.read_for(Duration::from_secs(6));
        }
        let n_sent = steady.stop().n_sent();
        Row { n_rounds, ..settled(&mut ledger, service, held, n_sent, true) }
    }

    /// A broker that wakes is taken for dead by its own controller and names no broker to those who ask.
    fn only_broker_pauses(&mut self, options: &Options, is_exact: bool) -> Row {
        let cluster = Cluster::start(1);
        let road = Road::new(&cluster, "only");
        cluster.configure_topic(&road.input, &[("message.timestamp.type", "LogAppendTime")]);
        let mut ledger = Ledger::new(&cluster, &road, "read_committed");
        let mut service = Vigie::start_ready(&road, options);
        let steady = Sender::new(&cluster, &road).go_on(500);
        let held = Held::by(&mut service);
        let n_rounds = 3;
        for _ in 0..n_rounds {
            cluster.signal(0, "STOP");
            std::thread::sleep(Duration::from_secs(12));
            cluster.signal(0, "CONT");
            let n_so_far = steady.n_sent();
            ledger.wait_for(n_so_far);
        }
        let n_sent = steady.stop().n_sent();
        Row { n_rounds, ..settled(&mut ledger, service, held, n_sent, !is_exact) }
    }

    fn network_pauses(&mut self, options: &Options, is_exact: bool) -> Row {
        let near = self.road();
        let road = Road { brokers: self.cluster.proxied_brokers().to_owned(), ..near.clone() };
        let mut ledger = Ledger::new(&self.cluster, &near, "read_committed");
        let mut service = Vigie::start_ready(&road, options);
        let steady = Sender::new(&self.cluster, &near).go_on(1000);
        let held = Held::by(&mut service);
        let mut n_rounds = 0;
        // All brokers or one; up to beyond session and transaction timeout.
        for (seconds, which) in [(2, None), (4, Some(0)), (12, None), (12, Some(1)), (25, None), (12, Some(2))] {
            let is_cut = self.dice.below(2) == 0;
            for (_, proxy) in
                self.cluster.proxies().enumerate().filter(|(index, _)| which.is_none_or(|one| one == *index))
            {
                if is_cut { proxy.cut() } else { proxy.hold() }
            }
            ledger.read_for(Duration::from_secs(seconds));
            self.cluster.proxies().for_each(Proxy::release);
            let n_so_far = steady.n_sent();
            ledger.wait_for(n_so_far);
            n_rounds += 1;
            assert!(service.is_running(), "vigie ended:\n{}", service.log_tail());
        }
        let n_sent = steady.stop().n_sent();
        Row { n_rounds, ..settled(&mut ledger, service, held, n_sent, !is_exact) }
    }

    fn clock_jumps(&mut self, options: &Options) -> Row {
        let road = self.road();
        let folder = tempfile::tempdir().unwrap();
        let (library, file) = (folder.path().join("clock.so"), folder.path().join("offset"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/clock.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        let compiled = compiled.expect("cc builds librdkafka too");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        std::fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
        // Written in place, never cut short: the service has mapped it.
        let offset = std::fs::File::options().write(true).open(&file).unwrap();
        let jump_to = |seconds: i64| offset.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
        let options = options
            .clone()
            .env("LD_PRELOAD", library.display().to_string())
            .env("VIGIE_TEST_CLOCK", file.display().to_string());
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let mut service = Vigie::start_ready(&road, &options);
        let steady = Sender::new(&self.cluster, &road).go_on(1000);
        let held = Held::by(&mut service);
        const HOUR: i64 = 3600;
        let offsets = [2 * HOUR, 0, -3 * HOUR, 26 * HOUR, -400 * 24 * HOUR, 0];
        for offset in offsets {
            jump_to(offset);
            ledger.read_for(Duration::from_secs(3));
            let n_so_far = steady.n_sent();
            ledger.wait_for(n_so_far);
        }
        let n_sent = steady.stop().n_sent();
        // Waits are not told: the clock that stamps scores is the one that jumped.
        Row { n_rounds: offsets.len() as u32, slowest: None, ..settled(&mut ledger, service, held, n_sent, false) }
    }

    fn pauses(&mut self) -> Row {
        let road = self.road();
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let mut frozen = Vigie::start_ready(&road, &Options::new());
        let other = Vigie::start_ready(&road, &Options::new());
        let steady = Sender::new(&self.cluster, &road).go_on(1000);
        let held = Held::by(&mut frozen);
        let mut n_rounds = 0;
        for seconds in [3, 12] {
            for index in 0..3 {
                self.cluster.signal(index, "STOP");
                ledger.read_for(Duration::from_secs(seconds));
                self.cluster.signal(index, "CONT");
                ledger.read_for(Duration::from_secs(3));
                n_rounds += 1;
            }
            // The longer one is beyond the session timeout: the other has taken over when it wakes.
            frozen.signal("STOP");
            ledger.read_for(Duration::from_secs(seconds));
            frozen.signal("CONT");
            ledger.read_for(Duration::from_secs(3));
            n_rounds += 1;
        }
        assert!(frozen.is_running(), "vigie ended:\n{}", frozen.log_tail());
        let n_sent = steady.stop().n_sent();
        ledger.wait_for(n_sent);
        let mut row = Row { n_rounds, n_messages: n_sent, ..Row::default() };
        held.compare(&frozen, &mut row);
        frozen.stop_well();
        other.stop_well();
        row.n_twice = ledger.settle(n_sent);
        row.slowest = Some(ledger.slowest());
        row
    }

    fn swaps_and_clocks(&mut self) -> Row {
        let road = self.road();
        // The broker refuses times more than an hour ahead, on the output topic too.
        let any_time = ("message.timestamp.after.max.ms", "9223372036854775807");
        self.cluster.configure_topic(&road.input, &[any_time, ("max.message.bytes", "8000000")]);
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        let versions = ["faults-a", "faults-b"];
        for version in versions {
            let mut artifact = Artifact::read(builtin_bytes()).unwrap();
            artifact.header.version = version.to_owned();
            registry.publish(&artifact.write()).unwrap();
        }
        let promote = |version: &str| {
            let output = vigie(&folder).args(["model", "promote", version, "--registry"]).arg(folder.path()).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        promote(versions[0]);
        let mut ledger = Ledger::new(&self.cluster, &road, "read_committed");
        let options = Options::new().flag("--registry", folder.path().display().to_string());
        let mut service = Vigie::start_ready(&road, &options);
        let mut sender = Sender::new(&self.cluster, &road);
        let mut held = None;
        let n_rounds = 6;
        const YEAR: i64 = 365 * 24 * 3_600_000;
        for round in 0..n_rounds {
            sender.clock_error = [0, 2 * YEAR, -20 * YEAR][round as usize % 3];
            let steady = sender.go_on(1500);
            if held.is_none() {
                held = Some(Held::by(&mut service));
            }
            promote(versions[(round as usize + 1) % 2]);
            ledger.read_for(Duration::from_secs(4));
            sender = steady.stop();
        }
        let row = Row {
            n_rounds,
            slowest: None,
            ..settled(&mut ledger, service, held.expect("a first round"), sender.n_sent(), false)
        };
        assert_eq!(ledger.versions.keys().map(String::as_str).collect::<Vec<&str>>(), versions);
        row
    }
}
