use std::future::poll_fn;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::lane::{BUFFER, LITTLE};
use crate::reactor::Reactor;

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

impl Direction {
    /// Memory for what waits, in bytes.
    fn held(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.bytes.capacity())
    }
}

/// A flow as a worker holds it.
struct Flow {
    client: Leg,
    backend: Leg,
    watching: Pin<Box<dyn Future<Output = ()>>>,
    directions: Directions,
    opening: Option<Box<Opening>>,
    record: Record,
    member: Member,
    kit: Kit,
}

impl Flow {
    /// A flow, and the far ends of its two connections.
    async fn new() -> (Self, TcpStream, TcpStream) {
        let ((client, far_client), (backend, far_backend)) = (pair().await, pair().await);
        let reactor = Rc::new(Reactor::new().unwrap());
        let kit = Kit::new(Rc::clone(&reactor));
        let leg = |stream: TcpStream| Leg::new(stream.into_std().unwrap().into(), &reactor).unwrap();
        let flow = Self {
            client: leg(client),
            backend: leg(backend),
            watching: Box::pin({
                let reactor = Rc::clone(&reactor);
                async move { drop(reactor.run().await) }
            }),
            directions: Directions::default(),
            opening: None,
            record: Record::default(),
            member: Member::default(),
            kit,
        };
        (flow, far_client, far_backend)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        assert!(self.watching.as_mut().poll(context).is_pending());
        self.poll_unaware(context)
    }

    /// The same before it is told what has come meanwhile.
    fn poll_unaware(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        Relay {
            client: &self.client,
            backend: &self.backend,
            directions: &mut self.directions,
            opening: &mut self.opening,
            account: None,
            record: &self.record,
            member: &self.member,
            kit: &self.kit,
        }
        .poll(context)
    }
}

#[tokio::test]
async fn a_slow_reader_costs_no_more_than_the_bound_and_loses_nothing() {
    const SAID: usize = 32 * 1024 * 1024;
    let (mut flow, far_client, far_backend) = Flow::new().await;
    let mut said = 0;
    let mut heard = 0;
    let mut most = 0;
    let flood = vec![7; 64 * 1024];
    let mut sip = vec![0; 4 * 1024];

    // As much as fits is said, little is read, for as long as there is something to say.
    while said < SAID {
        if let Ok(length) = far_client.try_write(&flood) {
            said += length;
        }
        let polled = poll_fn(|context| Poll::Ready(flow.poll(context).is_ready())).await;
        assert!(!polled);
        most = most.max(flow.directions.up.held());
        if let Ok(length) = far_backend.try_read(&mut sip) {
            heard += length;
        }
        tokio::task::yield_now().await;
    }

    assert!(most > 0, "the reader was not slow");
    assert!(most <= BUFFER, "{most}");
    // Nothing is lost, and what was held is given back.
    let mut rest = vec![0; 256 * 1024];
    while heard < said {
        let more = tokio::select! {
            _ = poll_fn(|context| flow.poll(context)) => panic!("nobody has ended"),
            more = far_backend.readable() => more,
        };
        more.unwrap();
        if let Ok(length) = far_backend.try_read(&mut rest) {
            heard += length;
        }
    }
    let _ = poll_fn(|context| Poll::Ready(flow.poll(context))).await;
    assert_eq!((heard, flow.directions.up.held()), (said, 0));
    assert_eq!(flow.member.to_backend.get(), said as u64);
}

#[tokio::test]
async fn an_idle_flow_holds_no_buffer() {
    let (mut flow, mut far_client, mut far_backend) = Flow::new().await;
    far_client.write_all(b"question").await.unwrap();
    let mut question = [0; 8];
    tokio::select! {
        _ = poll_fn(|context| flow.poll(context)) => panic!("nobody has ended"),
        read = far_backend.read_exact(&mut question) => drop(read.unwrap()),
    }

    assert_eq!(&question, b"question");
    assert_eq!(flow.directions.up.held() + flow.directions.down.held(), 0);
}

#[tokio::test]
async fn a_flow_that_is_to_be_moved_stays_if_its_client_has_asked_just_now() {
    let (mut flow, mut far_client, mut far_backend) = Flow::new().await;
    assert!(poll_fn(|context| Poll::Ready(flow.poll(context).is_pending())).await);

    far_client.write_all(b"question").await.unwrap();
    flow.record.end(End::Rebalanced);
    assert!(poll_fn(|context| Poll::Ready(flow.poll_unaware(context).is_pending())).await);
    let mut question = [0; 8];
    tokio::select! {
        _ = poll_fn(|context| flow.poll(context)) => panic!("nobody has ended"),
        read = far_backend.read_exact(&mut question) => drop(read.unwrap()),
    }
    assert_eq!(&question, b"question");

    flow.record.end(End::Rebalanced);
    let outcome = poll_fn(|context| flow.poll(context)).await;
    assert!(matches!(outcome, Outcome::Ended(End::Rebalanced)), "{outcome}");
}

#[tokio::test]
async fn where_much_waits_already_little_more_is_kept_for_each() {
    let (mut flow, far_client, _far_backend) = Flow::new().await;
    let much = flow.kit.waits(64 * BUFFER);
    let flood = vec![7; 64 * 1024];

    // Until nothing is taken any more.
    for _ in 0..1000 {
        while far_client.try_write(&flood).is_ok() {}
        assert!(poll_fn(|context| Poll::Ready(flow.poll(context).is_pending())).await);
        tokio::task::yield_now().await;
    }
    let held = flow.directions.up.held();
    assert!((1..=LITTLE).contains(&held), "{held}");

    assert_eq!(flow.kit.portion(), LITTLE);
    drop(much);
    assert_eq!(flow.kit.portion(), BUFFER);
}
