//! Packet sockets (packet(7)) in tokio: the one module with `unsafe`.

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, SockFilter, Socket, Type};
use std::io;
use std::ptr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A packet socket that receives one protocol on one interface, as far as its filter lets through, and sends frames.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<Socket>,
    index: u32,
}

/// A packet socket that only sends.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: Socket,
}

impl Listener {
    /// Opens a socket for frames of this ethertype on the interface with this index.
    ///
    /// The filter is in place before the first frame can arrive. Frames that this machine sends are not received:
    /// only sockets for all protocols see those.
    pub(crate) fn open(index: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Self> {
        let socket = open()?;
        socket.attach_filter(filter)?;
        rustix::net::bind(&socket, &LinkLayer::new(index, ethertype))?;
        let interest = Interest::READABLE;
        // SAFETY: `AsyncFd` takes ownership of the socket and nothing here takes it out or closes it before its drop;
        // `Socket::as_raw_fd` returns the same descriptor every time.
        #[expect(unsafe_code, reason = "AsyncFd asks its caller to vouch for the descriptor")]
        let socket = unsafe { AsyncFd::register_with_interest(socket, interest)? };
        Ok(Self { socket, index })
    }

    /// Receives one frame, cut to the buffer. May be cancelled: no frame is lost.
    pub(crate) async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.async_io(Interest::READABLE, |socket| recv(socket, buffer)).await
    }

    /// Receives a frame that is there already; `WouldBlock` if there is none.
    pub(crate) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.try_io(Interest::READABLE, |socket| recv(socket, buffer))
    }

    /// Sends a frame on the interface that is listened on.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.get_ref(), self.index, frame)
    }
}

impl Sender {
    /// Opens the socket. It receives nothing: it has no protocol.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: open()? })
    }

    /// Sends a frame at once, or fails: a frame that would have to wait in the queue comes too late anyway.
    pub(crate) fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        send(&self.socket, index, frame)
    }
}

fn open() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)
}

fn recv(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    let (received, _) = rustix::net::recv(socket, buffer, RecvFlags::empty())?;
    Ok(received)
}

fn send(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    let ethertype = frame.get(12..14).map_or(0, |octets| u16::from_be_bytes([octets[0], octets[1]]));
    rustix::net::sendto(socket, frame, SendFlags::DONTWAIT, &LinkLayer::new(index, ethertype))?;
    Ok(())
}

/// `struct sockaddr_ll` of the kernel.
#[repr(C)]
struct LinkLayer {
    family: u16,
    protocol: [u8; 2],
    index: u32,
    hardware_type: u16,
    packet_type: u8,
    address_len: u8,
    address: [u8; 8],
}

impl LinkLayer {
    fn new(index: u32, ethertype: u16) -> Self {
        Self {
            family: AF_PACKET,
            protocol: ethertype.to_be_bytes(),
            index,
            hardware_type: 0,
            packet_type: 0,
            address_len: 0,
            address: [0; 8],
        }
    }
}

// SAFETY: the pointer is to a whole `LinkLayer` that lives during the call, and the length is its own; it has the
// layout of `struct sockaddr_ll`, which a packet socket accepts for bind and sendto.
#[expect(unsafe_code, reason = "neither rustix nor socket2 has an address for packet sockets")]
unsafe impl SocketAddrArg for LinkLayer {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(ptr::from_ref(self).cast(), LINK_LAYER_LEN)
    }
}

const AF_PACKET: u16 = rustix::net::AddressFamily::PACKET.as_raw();
const LINK_LAYER_LEN: SocketAddrLen = 20;
const _: () = assert!(size_of::<LinkLayer>() == LINK_LAYER_LEN as usize);
