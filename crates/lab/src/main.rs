//! The lab's command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Parser, Subcommand};
use lab::balance::{Contender, Load};
use lab::compare::Matrix;
use lab::control::Control;
use lab::demo::{Console, Started, bring_up};
use lab::fault::Fault;
use lab::isolation::{Enclosure, Signals, enclose, init};
use lab::kubernetes::Kubernetes;
use lab::lab::{Lab, Plan};
use lab::network::{CLIENT, NODES, ONLOOKER};
use lab::system::{Programs, System, Timing};
use rustix::process::geteuid;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

mod trials;

use trials::Trial;

/// Three nodes, a switch and a client in network namespaces of this machine. Needs root, touches nothing of the host.
#[derive(Debug, Parser)]
#[command(name = "vipd-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Trial(Trial),
    /// Measure the same faults for several systems, in turn
    Compare {
        /// How often each cell is measured
        #[arg(long, default_value_t = 10)]
        runs: usize,
        /// Which systems: vipd, vipd-fast, vipd-relaxed, vipd-same-port, vipd-address, keepalived, keepalived-tuned, keepalived-minimum, and with --kubernetes
        /// vipd-lease-15, vipd-lease-5, vipd-lease-2, the same three with -balancer, kube-vip-15, kube-vip-5
        #[arg(long, value_delimiter = ',', default_values_t = Matrix::SYSTEMS)]
        systems: Vec<System>,
        /// Which faults: link-down, sigterm, apiserver-killed, sigkill, sigstop, address-deleted
        #[arg(long, value_delimiter = ',', default_values_t = Matrix::FAULTS)]
        scenarios: Vec<Fault>,
        /// Write every single result to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Real etcd and kube-apiserver (from the folder VIPD_KUBE_BIN) instead of the stand-in
        #[arg(long)]
        kubernetes: bool,
        #[command(flatten)]
        places: Places,
    },
    /// Measure what a balancer costs: vipd, haproxy, nginx, the kernel's DNAT and none, under the same loads, in turn
    Balance {
        /// How often each is measured
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Which: none, nft, haproxy, nginx, vipd
        #[arg(long, value_delimiter = ',', default_values_t = Contender::ALL)]
        contenders: Vec<Contender>,
        /// What they are asked for: requests, connections, bulk, steady, idle
        #[arg(long, value_delimiter = ',', default_values_t = Load::ALL)]
        loads: Vec<Load>,
        /// How long each load lasts, in seconds
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Connections that stand idle
        #[arg(long, default_value_t = 7000)]
        idle: usize,
        /// Write every single result to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[command(flatten)]
        places: Places,
    },
    /// Mixed load through vipd's balancer for long while backends come and go, every byte checked: what everybody counted is to add up,
    /// memory to stay flat and no descriptor to be left
    Soak {
        /// How long, in minutes
        #[arg(long, default_value_t = 120.0, value_parser = minutes)]
        minutes: f64,
        /// The seed that everything is drawn from [default: a new one]
        #[arg(long)]
        seed: Option<u64>,
        /// How many questions a second are asked on each kept connection
        #[arg(long, default_value_t = 2.0, value_parser = rate)]
        rate: f64,
        #[command(flatten)]
        places: Places,
    },
    /// Run a command on the client, with three nodes running; its exit code is passed on
    Exec {
        #[command(flatten)]
        setup: Setup,
        /// Start the backends alone; the command installs systems through the control socket
        #[arg(long, conflicts_with_all = ["system", "timing"])]
        bare: bool,
        /// For how many seconds kube-apiservers that are told to end go on serving, saying that they aren't ready
        #[arg(long, value_name = "SECONDS", requires = "kubernetes", default_value_t = 0)]
        shutdown_delay: u64,
        /// The command; its environment has LAB_SOCKET, LAB_VIP, LAB_PORT, LAB_CA and KUBECONFIG
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Keep the lab up until Ctrl-C and say how to enter its namespaces
    Shell {
        #[command(flatten)]
        setup: Setup,
    },
    /// Run a command in an empty enclosure: own processes, mounts and network, gone with the command
    #[command(hide = true)]
    Isolated {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    #[command(hide = true)]
    Init {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    #[command(hide = true)]
    Backend {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        node: String,
        #[arg(long)]
        certificates: PathBuf,
    },
    #[command(hide = true)]
    SoakBackend {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        name: String,
        #[arg(long)]
        certificates: PathBuf,
        #[arg(long)]
        ledger: PathBuf,
        #[arg(long)]
        seed: u64,
    },
}

/// How long a soak lasts: at least so long that each kind of stream comes to its end, and at most a month.
fn minutes(text: &str) -> Result<f64, String> {
    within(text, 0.5, 43_200.0)
}

/// How many questions a second a soak's kept connections ask.
fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.1, 100.0)
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("it is a number from {least} to {most}"))
}

/// What runs in the lab.
#[derive(Debug, Args)]
struct Setup {
    /// Real etcd and kube-apiserver (from the folder VIPD_KUBE_BIN) instead of the stand-in
    #[arg(long)]
    kubernetes: bool,
    /// The timing profile of vipd: default, fast or relaxed
    #[arg(long, default_value = "default")]
    timing: Timing,
    /// Another system than vipd, as `compare` names it
    #[arg(long, conflicts_with = "timing")]
    system: Option<System>,
    #[command(flatten)]
    places: Places,
}

/// Where things are.
#[derive(Debug, Args)]
struct Places {
    /// The vipd to run [default: VIPD_BIN, else beside this program]
    #[arg(long, value_name = "PATH")]
    vipd: Option<PathBuf>,
    /// Save configurations and logs of all nodes in this folder at the end
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
}

impl Setup {
    fn system(&self) -> System {
        self.system.unwrap_or(System::Vipd(self.timing))
    }
}

/// sysexits(3): it was called with something that means nothing.
const EX_USAGE: u8 = 64;
/// sysexits(3): not permitted.
const EX_NOPERM: u8 = 77;
/// sysexits(3): an error of the lab itself.
const EX_SOFTWARE: u8 = 70;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = std::env::var("VIPD_LAB_LOG").unwrap_or_else(|_| "warn,lab=info".to_owned());
    let Ok(filter) = level.parse::<Targets>() else {
        Complaint::print(&anyhow!(
            "VIPD_LAB_LOG is `{level}`, which is no log level; write debug, or info,lab=debug"
        ));
        return ExitCode::from(EX_USAGE);
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
    // The observers have threads of their own; the rest waits most of the time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("failed to start the runtime").and_then(|it| it.block_on(run(cli.command)));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            Complaint::print(&error);
            ExitCode::from(if geteuid().is_root() { EX_SOFTWARE } else { EX_NOPERM })
        }
    }
}

/// What goes to stderr at the end.
struct Complaint;

impl Complaint {
    fn print(error: &anyhow::Error) {
        use std::io::Write as _;
        writeln!(std::io::stderr(), "vipd-lab: {error:#}").ok();
    }
}

async fn run(command: Command) -> Result<u8> {
    match command {
        Command::Init { command } => init(&command[0], &command[1..]).await,
        Command::Isolated { command } => enclose(command[0].as_ref(), &command[1..]).await,
        Command::Backend { listen, node, certificates } => {
            lab::backend::serve(listen, node, &certificates).await.map(|()| 0)
        }
        Command::SoakBackend { listen, name, certificates, ledger, seed } => {
            let backend = lab::soak::Backend { listen, name, certificates, ledger, seed };
            lab::soak::serve(&backend).await.map(|()| 0)
        }
        Command::Trial(_)
        | Command::Compare { .. }
        | Command::Balance { .. }
        | Command::Soak { .. }
        | Command::Exec { .. }
        | Command::Shell { .. } => {
            let Some(enclosure) = Enclosure::here() else {
                let args: Vec<OsString> = std::env::args_os().skip(1).collect();
                return enclose(&std::env::current_exe()?, &args).await;
            };
            let mut signals = Signals::new()?;
            tokio::select! {
                done = inside(command, &enclosure) => done,
                signal = signals.next() => Ok(128 + u8::try_from(signal.as_raw()).unwrap_or(0)),
            }
        }
    }
}

/// The commands that need a lab, inside the enclosure. May be cancelled: everything ends with the process.
async fn inside(command: Command, enclosure: &Enclosure) -> Result<u8> {
    let began = Started::now();
    match command {
        Command::Trial(trial) => trial.run(enclosure, began).await,
        Command::Compare { runs, systems, scenarios, json, kubernetes, places } => {
            let matrix = Matrix { runs, systems, faults: scenarios, json };
            let mut lab = build(enclosure, &places, kubernetes).await?;
            let done = lab::compare::run(&mut lab, &matrix).await;
            save_logs(&lab, &places)?;
            done.map(|()| 0)
        }
        Command::Balance { rounds, contenders, loads, seconds, idle, json, places } => {
            let lasts = std::time::Duration::from_secs(seconds);
            let plan = lab::balance::Plan { rounds, contenders, loads, lasts, idle, json };
            let programs = Programs { vipd: places.vipd };
            lab::balance::run(enclosure, &programs, &plan).await.map(|()| 0)
        }
        Command::Soak { minutes, seed, rate, places } => {
            let lasts = std::time::Duration::from_secs_f64(minutes * 60.0);
            let seed = seed.unwrap_or_else(|| fastrand::u64(..));
            let plan = lab::soak::Plan { lasts, seed, rate };
            let passed = lab::soak::run(enclosure, &Programs { vipd: places.vipd }, &plan).await?;
            Ok(u8::from(!passed))
        }
        Command::Exec { setup, bare, shutdown_delay, command } => {
            let mut lab = build_with_delay(enclosure, &setup, shutdown_delay).await?;
            let code = exec(&mut lab, (!bare).then(|| setup.system()), &command).await;
            save_logs(&lab, &setup.places)?;
            code
        }
        Command::Shell { setup } => {
            let mut lab = build(enclosure, &setup.places, setup.kubernetes).await?;
            bring_up(&mut lab, setup.system(), began.at(), &Console).await?;
            explain_entry(enclosure);
            Control::open()?.run(&mut lab).await.map(|()| 0)
        }
        Command::Init { .. }
        | Command::Isolated { .. }
        | Command::Backend { .. }
        | Command::SoakBackend { .. } => {
            unreachable!("they need no lab and were handled before")
        }
    }
}

async fn build(enclosure: &Enclosure, places: &Places, kubernetes: bool) -> Result<Lab> {
    build_on(enclosure, places, kubernetes.then(Kubernetes::find).transpose()?).await
}

/// With apiservers that go on serving for so many seconds when they are told to end.
async fn build_with_delay(enclosure: &Enclosure, setup: &Setup, seconds: u64) -> Result<Lab> {
    let delay = std::time::Duration::from_secs(seconds);
    let kubernetes = setup.kubernetes.then(Kubernetes::find).transpose()?;
    build_on(enclosure, &setup.places, kubernetes.map(|it| it.with_shutdown_delay(delay))).await
}

async fn build_on(enclosure: &Enclosure, places: &Places, kubernetes: Option<Kubernetes>) -> Result<Lab> {
    let programs = Programs { vipd: places.vipd.clone() };
    Lab::build(enclosure, Plan { kubernetes, programs, backend: None }).await
}

async fn exec(lab: &mut Lab, system: Option<System>, command: &[OsString]) -> Result<u8> {
    lab.start_backends().await?;
    if let Some(system) = system {
        lab.start_system(system)?;
        lab.await_owner(std::time::Duration::from_secs(60), |_| true).await?;
    }
    let control = Control::open()?;
    let mut child = lab.command_on_client(&command[0], &command[1..])?;
    let status = tokio::select! {
        status = child.wait() => status?,
        failed = control.run(lab) => { failed?; child.wait().await? }
    };
    Ok(lab::isolation::exit_code(status))
}

fn save_logs(lab: &Lab, places: &Places) -> Result<()> {
    places.logs.as_deref().map_or(Ok(()), |folder| lab.save_logs(folder))
}

fn explain_entry(enclosure: &Enclosure) {
    let pid = enclosure.host_pid();
    let console = Console;
    console.line("\nEnter a namespace from another terminal, as root:");
    for name in NODES.into_iter().chain([CLIENT, ONLOOKER]) {
        console.line(format!("  nsenter -t {pid} -m -p -n nsenter --net=/run/netns/{name} bash   # {name}"));
    }
    console.line(format!("  nsenter -t {pid} -m -p -n bash   # the switch"));
    console.line(format!(
        "The control socket, for those inside: {}. Ctrl-C ends it all.",
        lab::lab::control_socket().display()
    ));
}
