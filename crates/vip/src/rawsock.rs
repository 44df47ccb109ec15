//! Packet sockets (packet(7)) in tokio: the one module with `unsafe`.

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, SockFilter, Socket, Type};
use std::io;
use std::os::fd::AsRawFd as _;
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

/// A packet socket for what others send to this station by one protocol, each frame with what a network card is to do about it
/// (`struct virtio_net_hdr`): so a frame that the kernel has put together of several, or without a checksum yet, can be sent on.
///
/// To open one takes 0.06 ms, to close it 16: the kernel waits until no processor looks at it any more. That is done on a thread for
/// what blocks.
#[derive(Debug)]
pub(crate) struct Tap {
    /// None only while it is dropped.
    socket: Option<AsyncFd<Socket>>,
    index: u32,
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
        Ok(Self { socket: register(socket)?, index })
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

impl Tap {
    /// Opens a socket for frames of this ethertype on the interface with this index. From then on none is missed that its filter
    /// lets through and its buffer has room for.
    pub(crate) fn open(index: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Self> {
        let socket = open()?;
        carry_offloads(&socket)?;
        socket.attach_filter(filter)?;
        rustix::net::bind(&socket, &LinkLayer::new(index, ethertype))?;
        Ok(Self { socket: Some(register(socket)?), index })
    }

    /// Waits until there may be a frame. May be cancelled: none is taken.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket().readable().await?.retain_ready();
        Ok(())
    }

    /// Receives a frame that is there already, behind its offload, cut to the buffer; `WouldBlock` if there is none.
    pub(crate) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket().try_io(Interest::READABLE, |socket| recv(socket, buffer))
    }

    /// Sends a frame that stands behind its offload on the interface that is listened on.
    pub(crate) fn send(&self, parcel: &[u8], offload: usize) -> io::Result<()> {
        let link = LinkLayer::new(self.index, ethertype(&parcel[offload..]));
        rustix::net::sendto(self.socket().get_ref(), parcel, SendFlags::DONTWAIT, &link)?;
        Ok(())
    }

    fn socket(&self) -> &AsyncFd<Socket> {
        self.socket.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take().map(AsyncFd::into_inner) else { return };
        match tokio::runtime::Handle::try_current() {
            // Nobody waits for it: it holds nothing that anybody needs.
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(socket))),
            Err(_) => drop(socket),
        }
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

fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    let interest = Interest::READABLE;
    // SAFETY: `AsyncFd` takes ownership of the socket, and nothing here closes it before the `AsyncFd` is dropped or taken
    // apart; `Socket::as_raw_fd` returns the same descriptor every time.
    #[expect(unsafe_code, reason = "AsyncFd asks its caller to vouch for the descriptor")]
    let registered = unsafe { AsyncFd::register_with_interest(socket, interest)? };
    Ok(registered)
}

/// Has a packet socket give and take a `struct virtio_net_hdr` with each frame.
fn carry_offloads(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a whole `int` that lives during the call, and the length is its own, as packet(7) asks for.
    #[expect(unsafe_code, reason = "neither rustix nor socket2 has this option")]
    let result = unsafe {
        let value = ptr::from_ref(&on).cast();
        let length = size_of_val(&on) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn recv(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    let (received, _) = rustix::net::recv(socket, buffer, RecvFlags::empty())?;
    Ok(received)
}

fn send(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    rustix::net::sendto(socket, frame, SendFlags::DONTWAIT, &LinkLayer::new(index, ethertype(frame)))?;
    Ok(())
}

fn ethertype(frame: &[u8]) -> u16 {
    frame.get(12..14).map_or(0, |octets| u16::from_be_bytes([octets[0], octets[1]]))
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
