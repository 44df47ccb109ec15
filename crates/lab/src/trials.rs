//! The commands that try one system in a lab and judge it: their exit code is 1 if it failed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use lab::attack::Attack;
use lab::demo::Started;
use lab::fault::Fault;
use lab::isolation::Enclosure;
use lab::lab::Lab;
use lab::system::{Programs, System};

use super::{Setup, build, save_logs};

#[derive(Debug, Subcommand)]
pub(super) enum Trial {
    /// Break things one by one and show what a client sees
    Demo {
        #[command(flatten)]
        setup: Setup,
    },
    /// Let faults drawn from a seed happen in a row, and judge: never two nodes that answer, always one again
    Storm {
        /// How many faults
        #[arg(long, default_value_t = 200)]
        faults: usize,
        /// The seed that they are drawn from [default: a new one]
        #[arg(long)]
        seed: Option<u64>,
        /// Which faults are drawn [default: those that a system of this kind is to survive]
        #[arg(long, value_delimiter = ',')]
        scenarios: Option<Vec<Fault>>,
        /// Write every single result to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[command(flatten)]
        setup: Setup,
    },
    /// Attack it, for a while each, and judge: the owner stays where it can, nobody else answers, memory and log lines are bounded, and
    /// all is well again without a hand
    Attack {
        /// Which: forged, strangers, replayed, spoofed, syn-flood, slow-loris, mtu, tiny-mtu, renamed, overrun, disk-full
        #[arg(long, value_delimiter = ',', default_values_t = Attack::ALL)]
        attacks: Vec<Attack>,
        /// How often each
        #[arg(long, default_value_t = 10)]
        tries: usize,
        /// For how many seconds each time
        #[arg(long, default_value_t = 8)]
        seconds: u64,
        #[command(flatten)]
        setup: Setup,
    },
    /// Let the address move thousands of times, by faults drawn from a seed, and judge: never two nodes that answer, always one again,
    /// nothing that grows, nothing left behind
    Endure {
        /// How many failovers
        #[arg(long, default_value_t = 5000)]
        failovers: usize,
        /// The seed that they are drawn from [default: a new one]
        #[arg(long)]
        seed: Option<u64>,
        /// Write every single result to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[command(flatten)]
        setup: Setup,
    },
    /// Change the version of vipd node by node, and back, with the owner killed in each mixture: never two nodes that answer, always one again
    Upgrade {
        /// The version that is there
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        #[command(flatten)]
        setup: Setup,
    },
    /// Take the machine's processors by eight busy loops for a while: the address is to stay where it is
    Starve {
        /// For how many seconds
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        #[command(flatten)]
        setup: Setup,
    },
    /// Step the wall clock of one vipd after the other by an hour, forwards and back: nothing is to come of it. It takes a vipd that is
    /// linked dynamically, by default the one beside this program
    Clocks {
        #[command(flatten)]
        setup: Setup,
    },
}

impl Trial {
    /// Carries it out. May be cancelled: everything ends with the process.
    pub(super) async fn run(self, enclosure: &Enclosure, began: Started) -> Result<u8> {
        match self {
            Self::Demo { setup } => {
                judged(enclosure, &setup, async |lab, system| lab::demo::run(lab, system, began.at()).await)
                    .await
            }
            Self::Storm { faults, seed, scenarios, json, setup } => {
                let plan =
                    lab::storm::Plan::new(setup.system(), seed.unwrap_or_else(drawn), faults, scenarios);
                let storm =
                    async |lab: &mut Lab, system| lab::storm::run(lab, system, &plan, json.as_deref()).await;
                judged(enclosure, &setup, storm).await
            }
            Self::Attack { attacks, tries, seconds, setup } => {
                let plan = lab::attack::Plan { attacks, tries, lasts: Duration::from_secs(seconds) };
                judged(enclosure, &setup, async |lab, system| lab::attack::run(lab, system, &plan).await)
                    .await
            }
            Self::Endure { failovers, seed, json, setup } => {
                let plan = lab::endurance::Plan::new(seed.unwrap_or_else(drawn), failovers);
                let row = async |lab: &mut Lab, system| {
                    lab::endurance::run(lab, system, &plan, json.as_deref()).await
                };
                judged(enclosure, &setup, row).await
            }
            Self::Upgrade { from, setup } => {
                let to = Programs { vipd: setup.places.vipd.clone() }.vipd()?;
                let versions = lab::upgrade::Versions { from: Programs { vipd: Some(from) }.vipd()?, to };
                judged(enclosure, &setup, async |lab, system| lab::upgrade::run(lab, system, &versions).await)
                    .await
            }
            Self::Starve { seconds, setup } => {
                let lasts = Duration::from_secs(seconds);
                judged(enclosure, &setup, async |lab, system| lab::starve::run(lab, system, lasts).await)
                    .await
            }
            Self::Clocks { setup } => {
                judged(enclosure, &setup, async |lab, system| lab::wall_clock::run(lab, system).await).await
            }
        }
    }
}

/// A new seed.
fn drawn() -> u64 {
    fastrand::u64(..)
}

/// Carries something out in a lab, keeps the logs, and makes an exit code of its judgement.
async fn judged(
    enclosure: &Enclosure,
    setup: &Setup,
    body: impl AsyncFnOnce(&mut Lab, System) -> Result<bool>,
) -> Result<u8> {
    let mut lab = build(enclosure, &setup.places, setup.kubernetes).await?;
    let passed = body(&mut lab, setup.system()).await;
    save_logs(&lab, &setup.places)?;
    Ok(u8::from(!passed?))
}
