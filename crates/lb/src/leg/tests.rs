use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;

use super::*;

/// Does something beside the reactor, on its thread.
async fn beside<T>(reactor: &Reactor, work: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        outcome = work => outcome,
        Err(error) = reactor.run() => panic!("{error}"),
    }
}

/// A leg, and its peer.
fn pair(reactor: &Rc<Reactor>) -> (Leg, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (Leg::new(near.into(), reactor).unwrap(), peer)
}

async fn read(leg: &Leg, buffer: &mut [u8]) -> io::Result<Read> {
    poll_fn(|context| leg.poll_read(context, buffer)).await
}

/// Waits until the kernel has told of the end of the connection, by whatever means.
async fn told_of_the_end(leg: &Leg) {
    poll_fn(|context| {
        let readiness = leg.reactor.readiness(leg.key, context);
        if readiness.ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn bytes_that_nothing_follows_are_told_as_the_last() {
    let reactor = Rc::new(Reactor::new().unwrap());
    let (leg, mut peer) = pair(&reactor);
    let mut buffer = [0; 16];

    peer.write_all(b"more comes").unwrap();
    let first = beside(&reactor, read(&leg, &mut buffer)).await.unwrap();
    peer.write_all(b"no more").unwrap();
    drop(peer);
    beside(&reactor, told_of_the_end(&leg)).await;
    let second = beside(&reactor, read(&leg, &mut buffer)).await.unwrap();

    assert_eq!(first, Read { length: 10, last: false });
    assert_eq!(second, Read { length: 7, last: true });
}

#[tokio::test]
async fn an_end_behind_a_full_buffer_is_found_by_reading_on() {
    let reactor = Rc::new(Reactor::new().unwrap());
    let (leg, mut peer) = pair(&reactor);
    peer.write_all(b"12345678").unwrap();
    drop(peer);
    beside(&reactor, told_of_the_end(&leg)).await;
    let mut buffer = [0; 8];

    let first = beside(&reactor, read(&leg, &mut buffer)).await.unwrap();
    let second = beside(&reactor, read(&leg, &mut buffer)).await.unwrap();

    assert_eq!(first, Read { length: 8, last: false });
    assert_eq!(second, Read { length: 0, last: true });
}

#[tokio::test]
async fn a_reset_is_never_taken_for_a_good_end() {
    let reactor = Rc::new(Reactor::new().unwrap());
    let (leg, mut peer) = pair(&reactor);
    peer.write_all(b"cut").unwrap();
    SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(peer);
    beside(&reactor, told_of_the_end(&leg)).await;
    let mut buffer = [0; 16];

    // The bytes may be lost by it, but whatever is read before the error isn't the last.
    let outcome = loop {
        match beside(&reactor, read(&leg, &mut buffer)).await {
            Ok(read) => assert!(!read.last && read.length > 0, "{read:?}"),
            Err(error) => break error,
        }
    };

    assert_eq!(outcome.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_leg_that_is_finished_ends_in_order_and_a_forgotten_one_resets() {
    let reactor = Rc::new(Reactor::new().unwrap());
    let ((mut finished, mut told), (forgotten, mut cut)) = (pair(&reactor), pair(&reactor));
    beside(&reactor, poll_fn(|context| finished.poll_write(context, b"bye", true))).await.unwrap();

    finished.finish();
    drop((finished, forgotten));

    let mut heard = String::new();
    assert_eq!(told.read_to_string(&mut heard).unwrap(), 3);
    assert_eq!(cut.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// More sockets than events are taken at a time.
#[tokio::test]
async fn many_that_become_ready_at_once_are_all_told() {
    let reactor = Rc::new(Reactor::new().unwrap());
    let mut pairs: Vec<_> = (0..600).map(|_| pair(&reactor)).collect();
    for (_, peer) in &mut pairs {
        peer.write_all(b"x").unwrap();
    }

    let all = async {
        for (leg, _) in &pairs {
            assert_eq!(read(leg, &mut [0; 4]).await.unwrap().length, 1);
        }
    };

    beside(&reactor, all).await;
}

#[tokio::test]
async fn what_is_known_of_a_closed_socket_is_not_told_of_the_next() {
    let reactor = Rc::new(Reactor::new().unwrap());
    let (leg, mut peer) = pair(&reactor);
    peer.write_all(b"x").unwrap();
    drop(peer);
    beside(&reactor, told_of_the_end(&leg)).await;
    let key = leg.key;
    drop(leg);

    let (next, _peer) = pair(&reactor);

    assert_eq!(next.key, key, "the slot is taken again");
    let mut buffer = [0; 4];
    let mut reading = pin!(read(&next, &mut buffer));
    let looked = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context).is_pending()));
    assert!(beside(&reactor, looked).await);
}
