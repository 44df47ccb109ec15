//! Clients of a load balancer that notice if a single connection is lost: new ones every millisecond, silent ones, and ones that carry
//! much.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;

use crate::rig::PATIENCE;

/// Between two new connections of one client.
const PACE: Duration = Duration::from_millis(1);

/// Connections without a word from the first change to the last.
const IDLE: usize = 5;

/// Bytes that are on their way at a time where much is carried.
const BULK: usize = 64 * 1024;

/// A backend that says its name to each client, and then repeats what it hears.
pub(crate) fn named(name: u8) -> SocketAddr {
    named_at(name, "127.0.0.1:0".parse().unwrap())
}

/// The same at an address.
pub(crate) fn named_at(name: u8, address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut heard = [0; BULK];
                let mut said = stream.write_all(&[name]);
                while said.is_ok() {
                    match stream.read(&mut heard) {
                        Ok(0) | Err(_) => return,
                        Ok(length) => said = stream.write_all(&heard[..length]),
                    }
                }
            });
        }
    });
    address
}

/// Connects, and hears who it is.
pub(crate) fn connect(port: u16) -> (TcpStream, u8) {
    try_connect(port).unwrap()
}

fn try_connect(port: u16) -> io::Result<(TcpStream, u8)> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut name = [0];
    client.read_exact(&mut name)?;
    Ok((client, name[0]))
}

/// One byte.
pub(crate) fn hear(client: &mut TcpStream) -> u8 {
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    byte[0]
}

/// Clients of one port.
pub(crate) struct Traffic {
    /// Dropped, it ends them.
    stop: Vec<SyncSender<()>>,
    threads: Vec<JoinHandle<()>>,
    connections: Arc<AtomicUsize>,
    /// Blocks of bulk data that came back as they were sent.
    blocks: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<String>>>,
    idle: Vec<TcpStream>,
}

impl Traffic {
    pub(crate) fn to(port: u16) -> Self {
        let (mut stop, mut threads) = (Vec::new(), Vec::new());
        let (connections, blocks) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let lost = Arc::new(Mutex::new(Vec::new()));
        let mut start = |what: fn(u16, &AtomicUsize, &Receiver<()>) -> io::Result<()>,
                         count: &Arc<AtomicUsize>| {
            let (sender, stopped) = sync_channel(1);
            let (count, lost) = (Arc::clone(count), Arc::clone(&lost));
            stop.push(sender);
            threads.push(thread::spawn(move || {
                if let Err(error) = what(port, &count, &stopped) {
                    lost.lock().unwrap().push(error.to_string());
                }
            }));
        };
        start(come_and_go, &connections);
        start(come_and_go, &connections);
        start(carry, &blocks);
        let idle = (0..IDLE).map(|_| connect(port).0).collect();
        Self { stop, threads, connections, blocks, lost, idle }
    }

    /// Waits until more has come through, in each way; fails if anything was lost.
    pub(crate) fn goes_on(&self) {
        for count in [&self.connections, &self.blocks] {
            let (began, before) = (Instant::now(), count.load(Ordering::Relaxed));
            while count.load(Ordering::Relaxed) < before + 20 {
                assert_eq!(*self.lost.lock().unwrap(), [""; 0]);
                assert!(began.elapsed() < PATIENCE, "nothing comes through any more");
                thread::yield_now();
            }
        }
    }

    /// Ends it; gives how many connections there were, of which none was lost.
    pub(crate) fn end(mut self) -> usize {
        self.stop.clear();
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        for idle in &mut self.idle {
            idle.write_all(b"x").unwrap();
            assert_eq!(hear(idle), b'x', "a silent connection goes on");
        }
        assert_eq!(*self.lost.lock().unwrap(), [""; 0]);
        self.connections.load(Ordering::Relaxed)
    }
}

/// One connection after the other: taken, greeted, heard, and ended by the client.
fn come_and_go(port: u16, connections: &AtomicUsize, stopped: &Receiver<()>) -> io::Result<()> {
    while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
        let (mut client, _) = try_connect(port)?;
        client.write_all(b"x")?;
        client.read_exact(&mut [0])?;
        client.shutdown(std::net::Shutdown::Write)?;
        if client.read(&mut [0])? != 0 {
            return Err(io::Error::other("more came than was said"));
        }
        connections.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// One connection that carries much.
fn carry(port: u16, blocks: &AtomicUsize, stopped: &Receiver<()>) -> io::Result<()> {
    let (mut client, _) = try_connect(port)?;
    let (mut said, mut heard) = (vec![0; BULK], vec![0; BULK]);
    let mut turn = 0_u8;
    while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
        turn = turn.wrapping_add(1);
        said.iter_mut().zip(0_u32..).for_each(|(byte, at)| *byte = at.to_le_bytes()[0] ^ turn);
        client.write_all(&said)?;
        client.read_exact(&mut heard)?;
        if said != heard {
            return Err(io::Error::other("the bytes differ"));
        }
        blocks.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
