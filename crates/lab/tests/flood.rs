//! Forged datagrams in a flood move nothing: not those of strangers, and not those in a peer's name.
//!
//! It needs a built vipd, beside this test's target folder or named by VIPD_BIN, and fails without one.

#![expect(clippy::print_stderr, reason = "what was measured is shown")]

mod enclosed;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::namespace::Namespace;
use lab::network::{NODES, node_address};
use lab::system::{System, Timing};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

/// Where vipd's peers talk to each other in the lab.
const PEER_PORT: u16 = 10_000;
/// Long enough for forty leases of the default profile.
const LASTS: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// A thread that sends one datagram again and again, as fast as it can.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Flood {
    fn start(from: &Namespace, source: Ipv4Addr, target: Ipv4Addr) -> Result<Self> {
        // The kernel takes the header as it is.
        let raw = || Ok(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?);
        let socket = from.within(raw)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let to = SocketAddr::from((target, 0)).into();
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            let mut noise = fastrand::Rng::with_seed(1);
            while !stopped.load(Ordering::Relaxed) {
                // A full queue loses it, as a wire would.
                sent += u64::from(socket.send_to(&forged(source, target, &mut noise), &to).is_ok());
            }
            sent
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it doesn't panic")
    }
}

/// A datagram that says what one of vipd's says first: its version, the key's number, that it asks for a lease. The rest is noise.
fn forged(source: Ipv4Addr, target: Ipv4Addr, noise: &mut fastrand::Rng) -> Vec<u8> {
    const CONTENT: usize = 160;
    const LENGTH: u16 = 20 + 8 + 160;
    let mut packet = vec![0x45, 0];
    packet.extend(LENGTH.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(PEER_PORT.to_be_bytes());
    packet.extend(PEER_PORT.to_be_bytes());
    packet.extend((LENGTH - 20).to_be_bytes());
    // No checksum (RFC 768).
    packet.extend([0, 0]);
    packet.extend([1, 1, 6, 0]);
    packet.extend((4..CONTENT).map(|_| noise.u8(..)));
    packet
}

/// Floods every node with datagrams from this address, or in the name of the next node.
async fn floods_move_nothing(lab: &mut Lab, stranger: Option<Ipv4Addr>) -> Result<()> {
    lab.start_backends().await?;
    lab.start_system(System::Vipd(Timing::Default))?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    lab.calm(CALM, PATIENCE).await?;
    let from = Instant::now();
    let name = |node: usize| stranger.unwrap_or_else(|| node_address((node + 1) % NODES.len()));
    let floods = (0..NODES.len())
        .map(|node| Flood::start(&lab.onlooker.namespace, name(node), node_address(node)))
        .collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(LASTS).await;
    let sent: u64 = floods.into_iter().map(Flood::stop).sum();
    let took = from.elapsed();
    lab.calm(CALM, PATIENCE).await?;
    let seen = lab.observe(from);
    eprintln!(
        "{sent} datagrams in {took:?}: {} moves, longest silence {:?}",
        seen.moves.len(),
        seen.service.silence
    );
    ensure!(seen.moves.is_empty() && seen.answered_at_once <= 1, "{seen:?}");
    Ok(())
}

#[test]
fn a_flood_in_the_names_of_peers_moves_nothing() {
    in_a_lab("a_flood_in_the_names_of_peers_moves_nothing", async |mut lab| {
        floods_move_nothing(&mut lab, None).await
    });
}

#[test]
fn a_flood_of_strangers_moves_nothing() {
    in_a_lab("a_flood_of_strangers_moves_nothing", async |mut lab| {
        floods_move_nothing(&mut lab, Some([10, 0, 0, 99].into())).await
    });
}
