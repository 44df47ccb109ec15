//! Who the client is: said to backends, and heard from proxies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lb::{CheckKind, Health, Network, ProxyProtocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::rig::{Rig, Server, backend, closed_address, echo, ended_by_reset, frontend, soon};

/// Reads up to the end of a line.
async fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(line).unwrap()
}

/// A backend that tells the first line of each connection, and echoes what follows.
async fn telling() -> (Server, mpsc::Receiver<String>) {
    // More than one check and a test's few clients.
    let (told, lines) = mpsc::channel(8);
    let server = Server::start(move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            told.send(read_line(&mut stream).await).await.unwrap();
            echo(stream).await;
        }
    });
    (server.await, lines)
}

/// Connects from this address of the loopback network.
async fn connect_from(last: u8, rig: &Rig) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 77, last], 0).into()).unwrap();
    soon(socket.connect(rig.address)).await.unwrap()
}

#[tokio::test]
async fn a_backend_that_expects_it_is_told_who_the_client_is_whoever_was_tried_before() {
    let (server, mut lines) = telling().await;
    let mut config = frontend(vec![backend("closed", closed_address().await), backend("a", server.address)]);
    config.check.kind = CheckKind::Tcp;
    config.proxy_protocol = Some(ProxyProtocol::V1);
    let rig = Rig::start(config);
    rig.wait_health("a", Health::Ready).await;
    assert_eq!(soon(lines.recv()).await.unwrap(), "PROXY UNKNOWN\r\n", "the check is nobody's client");

    for _ in 0..4 {
        let mut client = rig.connect().await;
        let (own, reached) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        client.write_all(b"x").await.unwrap();
        assert_eq!(soon(client.read_u8()).await.unwrap(), b'x', "the header is not the client's to hear");

        let expected =
            format!("PROXY TCP4 {} {} {} {}\r\n", own.ip(), reached.ip(), own.port(), reached.port());
        assert_eq!(soon(lines.recv()).await.unwrap(), expected);
    }
}

/// A backend that dies after it has taken the connection gets the header, and so does the one after it, before what the client has
/// said so far.
#[tokio::test]
async fn a_flow_that_starts_again_tells_the_next_backend_the_same() {
    // One from each of two backends.
    let (told, mut heard) = mpsc::channel(2);
    let first = Arc::new(AtomicBool::new(true));
    let server = move || {
        let (told, first) = (told.clone(), first.clone());
        Server::start(move |mut stream: TcpStream| {
            let (told, dies) = (told.clone(), first.swap(false, Ordering::SeqCst));
            async move {
                let mut said = vec![0; 28 + 5];
                stream.read_exact(&mut said).await.unwrap();
                told.send(said).await.unwrap();
                if !dies {
                    echo(stream).await;
                }
            }
        })
    };
    let (one, other) = (server().await, server().await);
    let mut config = frontend(vec![backend("one", one.address), backend("other", other.address)]);
    config.check.kind = CheckKind::None;
    config.proxy_protocol = Some(ProxyProtocol::V2);
    let rig = Rig::start(config);

    let mut client = rig.connect().await;
    // The beginning of a TLS handshake, which may be said twice.
    client.write_all(&[0x16, 3, 1, 0, 9]).await.unwrap();

    let (to_the_first, to_the_next) = (soon(heard.recv()).await.unwrap(), soon(heard.recv()).await.unwrap());
    assert_eq!(to_the_first, to_the_next);
    assert_eq!(to_the_next[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(to_the_next[28..], [0x16, 3, 1, 0, 9]);
}

/// A rig that trusts 127.0.77.1, and passes on to its backend who the client is.
async fn behind_a_proxy() -> (Rig, Server, mpsc::Receiver<String>) {
    let (server, lines) = telling().await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.check.kind = CheckKind::None;
    config.proxies = vec![Network::new([127, 0, 77, 1].into(), 32).unwrap()];
    config.proxy_protocol = Some(ProxyProtocol::V1);
    (Rig::start(config), server, lines)
}

#[tokio::test]
async fn a_proxys_word_is_passed_on_in_whatever_pieces_it_comes() {
    let (rig, _server, mut lines) = behind_a_proxy().await;
    let said = b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 443\r\n";
    for cut in [1, 20, said.len() - 1, said.len()] {
        let mut proxy = connect_from(1, &rig).await;
        proxy.set_nodelay(true).unwrap();
        proxy.write_all(&said[..cut]).await.unwrap();
        // The first piece has come when the balancer has looked at it in vain, which nobody tells.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        proxy.write_all(&[&said[cut..], b"x"].concat()).await.unwrap();

        assert_eq!(soon(proxy.read_u8()).await.unwrap(), b'x', "cut at {cut}");
        assert_eq!(soon(lines.recv()).await.unwrap().as_bytes(), said, "cut at {cut}");
    }
    let mut own = connect_from(1, &rig).await;
    let version_2 = [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], b"x"].concat();
    own.write_all(&version_2).await.unwrap();
    assert_eq!(soon(own.read_u8()).await.unwrap(), b'x');
    let line = soon(lines.recv()).await.unwrap();
    assert!(line.starts_with("PROXY TCP4 127.0.77.1 "), "a connection of the proxy's own is its own: {line}");
    assert_eq!(rig.status().rejected, 0);
}

#[tokio::test]
async fn garbage_from_a_proxy_is_reset_and_a_header_from_anybody_else_is_his_own_word() {
    let (rig, _server, mut lines) = behind_a_proxy().await;

    for garbage in
        [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP4 1.2.3.4\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"]
    {
        let mut proxy = connect_from(1, &rig).await;
        proxy.write_all(garbage).await.unwrap();
        assert!(ended_by_reset(&mut proxy).await, "{garbage:?}");
    }
    // One that ends before it has said who it is.
    let mut proxy = connect_from(1, &rig).await;
    proxy.write_all(b"PROXY TC").await.unwrap();
    proxy.shutdown().await.unwrap();
    assert!(ended_by_reset(&mut proxy).await);
    rig.wait(|status| status.rejected == 4 && status.connections == 0).await;

    let mut stranger = connect_from(2, &rig).await;
    let own = stranger.local_addr().unwrap();
    stranger.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 443\r\n").await.unwrap();
    let line = soon(lines.recv()).await.unwrap();
    assert!(line.starts_with("PROXY TCP4 127.0.77.2 ") && line.contains(&own.port().to_string()), "{line}");
    assert_eq!(
        read_line(&mut stranger).await,
        "PROXY TCP4 192.0.2.1 192.0.2.9 4711 443\r\n",
        "echoed as data"
    );
}
