//! The loop around an [`Election`].

use std::{
    collections::VecDeque,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::Lease;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep_until,
};
use tracing::{debug, info, warn};

use super::{
    Config, ControlPlane, Monitor, Status,
    access::{self, Access, Call, Outcome, Place},
    credentials::{Credentials, CredentialsError},
    failure::Kind,
    object,
    telling::log,
    watcher::{self, NEWS_MAX, News, Route},
};
use crate::{
    Leadership,
    clock::{due, now, stamp},
    handle::{Command, Desk, Handle, Leaving, Word},
    lease::{self, Ask, Election, Reply, Request, RequestId},
};

mod loading;

/// Objects that a request may build upon; only the last is built upon, and a watch may bring some before an answer.
const LEASES_MAX: usize = 8;

/// After this time the first kubeconfig is tried again: super-admin.conf is for the minutes before there are any rights.
const FIRST_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A stop waits no longer than this for a release; a pod has 30 s to end.
const LEAVE_MAX: Duration = Duration::from_secs(5);

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The task that runs one participant: it waits, feeds the machine, and does what comes out.
///
/// It waits on the answer to its request, on the watches, on the files of its credentials, on one deadline, on wishes and
/// on commands. It sends requests, publishes [`Leadership`] and a status, and writes one log line per change. Nothing ends it but
/// a shutdown: what is wrong is told, and tried again. It may be cancelled at any point; then the Lease lapses by itself.
pub struct Driver {
    config: Config,
    agent: String,
    election: Election,
    desk: Desk,
    status: watch::Sender<Status>,
    control_plane: watch::Receiver<ControlPlane>,
    /// None until there are credentials.
    access: Option<Access>,
    loading: Option<Pending<Result<Credentials, CredentialsError>>>,
    load_at: Instant,
    /// How many kubeconfigs to pass over, as they weren't let in, and until when.
    skip: usize,
    skip_until: Instant,
    calling: Option<Pending<(RequestId, Outcome)>>,
    calling_for: Calling,
    route: watch::Sender<Option<Route>>,
    news: mpsc::Receiver<News>,
    heard_at: Instant,
    leases: VecDeque<Lease>,
    /// What stands on the Lease while this node holds it.
    remark: Option<Arc<str>>,
    told: Option<String>,
    /// How many looks at the segment have been heeded.
    probes: u64,
    leaving: Option<Leaving>,
    _tasks: Tasks,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The watches; they end with the driver.
struct Tasks([JoinHandle<()>; 2]);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// What the request under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calling {
    Look,
    Creation,
    Change,
}

/// What the loop waits for.
enum Woken {
    Word(Word),
    Answer(RequestId, Box<Outcome>),
    News(News),
    Credentials(Box<Result<Credentials, CredentialsError>>),
    ControlPlane,
    Deadline,
}

impl Driver {
    /// A participant that has asked nothing yet. The seed is for the small random waits; the agent is what it calls itself in the
    /// servers' logs. To be called within a runtime: the watches start at once, and wait.
    pub fn start(config: Config, agent: &str, seed: u64) -> (Self, Handle, Monitor) {
        let now = now();
        let place = place(&config);
        let setup = lease::Config { me: config.me.clone(), timing: config.timing, preserve: config.preserve };
        let (desk, handle) = Desk::open();
        let (status, status_seen) = watch::channel(Status {
            lease: format!("{}/{}", place.namespace, place.name),
            identity: config.me.clone(),
            timing: config.timing,
            holder: None,
            renewed: None,
            transitions: 0,
            server: None,
            watching: false,
            credentials: None,
            trouble: None,
            requests: 0,
            failures: 0,
        });
        let (found, control_plane) = watch::channel(loading::recall(&config));
        let (route, route_seen) = watch::channel(None);
        let (news_sender, news) = mpsc::channel(NEWS_MAX);
        let retry = config.timing.retry_period() / 2;
        let tasks = Tasks([
            tokio::spawn(watcher::lease(route_seen.clone(), place, retry, news_sender)),
            tokio::spawn(watcher::nodes(route_seen, found)),
        ]);
        let monitor = Monitor { status: status_seen, control_plane: control_plane.clone() };
        let driver = Self {
            agent: agent.to_owned(),
            election: Election::new(&setup, seed, now),
            desk,
            status,
            control_plane,
            access: None,
            loading: None,
            load_at: now,
            skip: 0,
            skip_until: now,
            calling: None,
            calling_for: Calling::Look,
            route,
            news,
            heard_at: now,
            leases: VecDeque::new(),
            remark: None,
            told: None,
            probes: 0,
            leaving: None,
            _tasks: tasks,
            config,
        };
        (driver, handle, monitor)
    }

    /// Takes part in the election until it is shut down, or nobody is left to tell.
    pub async fn run(mut self) {
        loop {
            self.drain();
            if self.has_left(now()) {
                return;
            }
            match self.wait().await {
                Woken::Word(Word::Wishes) => self.heed_wishes(),
                Woken::Word(Word::Command(command)) => self.obey(command),
                Woken::Word(Word::Gone) => return,
                Woken::Answer(id, outcome) => self.take_answer(id, *outcome),
                Woken::News(news) => self.take_news(news),
                Woken::Credentials(loaded) => self.take_credentials(*loaded),
                Woken::ControlPlane => self.take_control_plane(),
                Woken::Deadline => {}
            }
            let now = now();
            self.load(now);
            self.election.handle_timeout(now);
        }
    }

    /// The next thing that happens. Every branch may be cancelled, and loses nothing.
    async fn wait(&mut self) -> Woken {
        let deadline = self.deadline();
        let timeout = pin!(sleep_until(due(deadline)));
        tokio::select! {
            // An answer that has arrived counts before the lease that it extends ends.
            biased;
            (id, outcome) = pending(&mut self.calling) => {
                self.calling = None;
                Woken::Answer(id, Box::new(outcome))
            }
            word = self.desk.next() => Woken::Word(word),
            Some(news) = self.news.recv() => Woken::News(news),
            loaded = pending(&mut self.loading) => {
                self.loading = None;
                Woken::Credentials(Box::new(loaded))
            }
            Ok(()) = self.control_plane.changed() => Woken::ControlPlane,
            () = timeout => Woken::Deadline,
        }
    }

    fn deadline(&self) -> Instant {
        let load = self.loading.is_none().then_some(self.load_at);
        let leaving = self.leaving.as_ref().map(|leaving| leaving.deadline);
        let deadlines = [self.election.poll_timeout(), load, leaving];
        deadlines.into_iter().flatten().min().unwrap_or(self.load_at)
    }

    fn heed_wishes(&mut self) {
        let now = now();
        let wishes = self.desk.wishes();
        self.election.set_eligible(wishes.eligible, wishes.successor.clone(), now);
        // With the next renewal: nothing is written for it alone.
        self.remark.clone_from(&wishes.remark);
        if std::mem::replace(&mut self.probes, wishes.probes) != wishes.probes {
            self.election.set_segment(wishes.segment, now);
        }
        self.publish();
        if self.desk.is_standby(&wishes) {
            self.election.confirm_standby(now);
        }
    }

    fn obey(&mut self, command: Command) {
        let now = now();
        match command {
            Command::StepDown { to, answer } => {
                let known = self.control_plane.borrow().names();
                let outcome = self.election.step_down(to.as_ref(), known.as_ref(), now);
                self.publish();
                // Whoever asked may have gone; what was asked is done.
                let _gone = answer.send(outcome);
            }
            Command::Shutdown(done) => {
                let deadline = now + self.config.timing.renew_deadline().min(LEAVE_MAX);
                self.leaving.get_or_insert(Leaving { deadline, done: Vec::new() }).done.push(done);
                self.election.stop(now);
            }
            // The Lease decides, and no segment.
            Command::Saw(_) => {}
        }
    }

    fn has_left(&mut self, now: Instant) -> bool {
        let has_left = self.election.has_left();
        let left = self.leaving.take_if(|leaving| has_left || leaving.deadline <= now);
        let Some(leaving) = left else { return false };
        if !has_left {
            warn!("stopping with the Lease unreleased: it lapses by itself");
        }
        leaving.answer();
        true
    }

    /// Does all that the last input led to. Leadership first: it is what others wait for.
    fn drain(&mut self) {
        self.publish();
        while let Some(request) = self.election.poll_request(stamp(), now()) {
            self.send(request);
            self.publish();
        }
        while let Some(event) = self.election.poll_event() {
            log(&event);
        }
        let record = self.election.record();
        let renewed = self.election.record_seen();
        let (holder, transitions) = record
            .map(|record| (record.holder.as_deref().map(str::to_owned), record.transitions))
            .unwrap_or_default();
        self.status.send_if_modified(|status| {
            let changed = status.holder != holder || status.transitions != transitions;
            status.holder = holder;
            // Nobody waits for this one.
            status.renewed = renewed;
            status.transitions = transitions;
            changed
        });
    }

    fn publish(&mut self) {
        let leadership = self.election.leadership(now());
        if self.desk.publish(leadership.clone())
            && let Leadership::Follower { leader: Some(leader) } = &leadership
        {
            info!(%leader, "follows");
        }
    }

    /// Sends a request in place of any that is under way.
    fn send(&mut self, request: Request) {
        let now = now();
        self.status.send_modify(|status| status.requests += 1);
        let clients = match &mut self.access {
            Some(access) => access.clients(now),
            // What is missing has been told.
            None => return self.fail(request.id, now),
        };
        let clients = match clients {
            Ok(clients) => clients,
            Err(failure) => {
                self.complain(failure.to_string());
                return self.fail(request.id, now);
            }
        };
        let Some(call) = self.call(&request.ask) else {
            return self.election.handle_reply(request.id, Reply::Conflict, now);
        };
        let called = access::call(clients, place(&self.config), call, request.patience);
        let id = request.id;
        self.calling_for = match request.ask {
            Ask::Get => Calling::Look,
            Ask::Create(_) => Calling::Creation,
            Ask::Update(..) => Calling::Change,
        };
        self.calling = Some(Box::pin(async move { (id, called.await) }));
    }

    fn fail(&mut self, id: RequestId, now: Instant) {
        self.status.send_modify(|status| status.failures += 1);
        self.election.handle_reply(id, Reply::Failed, now);
    }

    /// The call that carries out what is asked; none if the object that it builds upon is not at hand.
    fn call(&self, ask: &Ask) -> Option<Call> {
        let place = place(&self.config);
        let place = (place.namespace.as_str(), place.name.as_str());
        let annotations = (&self.config.annotations, self.remark.as_deref());
        match ask {
            Ask::Get => Some(Call::Get),
            Ask::Create(record) => {
                Some(Call::Create(Box::new(object::written(None, place, annotations, record))))
            }
            Ask::Update(version, record) => {
                let wanted = Some(version.as_str());
                let known = self
                    .leases
                    .iter()
                    .rev()
                    .find(|lease| lease.metadata.resource_version.as_deref() == wanted)?;
                Some(Call::Replace(Box::new(object::written(Some(known), place, annotations, record))))
            }
        }
    }

    fn take_answer(&mut self, id: RequestId, outcome: Outcome) {
        let now = now();
        if let Some(access) = &mut self.access {
            access.learn(&outcome, now);
        }
        if let Some((server, failure)) = outcome.failures.last() {
            let text = format!("{server}: {failure}");
            if outcome.server.is_none() {
                self.complain(text);
                self.status.send_modify(|status| status.failures += 1);
            } else {
                debug!(error = text, "a server failed, another answered");
            }
            if failure.kind == Kind::Credentials {
                self.skip += 1;
                self.skip_until = now + FIRST_AGAIN_AFTER;
                self.load_at = now;
            }
        }
        if let Some(server) = outcome.server {
            self.reached(server);
            if outcome.reply != Reply::Absent {
                self.recovered(server);
            } else if self.calling_for == Calling::Creation {
                let namespace = &self.config.namespace;
                self.complain(format!(
                    "{server}: 404, there is no namespace {namespace} for the Lease: make it, or name another (`kubernetes.lease`)"
                ));
            }
        }
        let before = self.election.record().cloned();
        if let Some(lease) = outcome.lease {
            self.keep(lease);
        }
        self.election.handle_reply(id, outcome.reply, now);
        let silent = self.status.borrow().watching && self.heard_at + self.config.timing.retry_period() < now;
        if self.calling_for == Calling::Look && silent && before.as_ref() != self.election.record() {
            // A look has shown what the watch should have told.
            debug!("the watch of the Lease is dead");
            self.route.send_modify(|_| {});
        }
    }

    /// A server has answered: watches belong there.
    fn reached(&mut self, server: std::net::SocketAddr) {
        let Some(access) = &self.access else { return };
        let elsewhere = self.route.borrow().as_ref().is_none_or(|route| route.server != server);
        if elsewhere && let Ok(client) = access.connect(server) {
            debug!(%server, "watches move to this server");
            self.route.send_replace(Some(Route { server, client }));
        }
        self.status.send_if_modified(|status| status.server.replace(server) != Some(server));
    }

    /// What was asked was done.
    fn recovered(&mut self, server: std::net::SocketAddr) {
        if let Some(trouble) = self.told.take() {
            info!(%server, after = trouble, "the API answers again");
        }
        self.status.send_if_modified(|status| status.trouble.take().is_some());
    }

    /// Tells of trouble once, until it is over or another.
    fn complain(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            let place = place(&self.config);
            warn!(
                error = text,
                lease = format!("{}/{}", place.namespace, place.name),
                "the Kubernetes API doesn't help; trying again"
            );
            self.status.send_modify(|status| status.trouble = Some(text.clone()));
            self.told = Some(text);
        }
    }

    fn take_news(&mut self, news: News) {
        let now = now();
        self.heard_at = now;
        match news {
            News::Open => self.set_watching(true, now),
            News::Is(lease) => {
                let observed = object::observed(&lease);
                self.keep(*lease);
                self.election.handle_seen(observed, now);
            }
            News::Deleted => self.election.handle_deleted(now),
            News::Ended(failure) => {
                if let Some((server, failure)) = failure {
                    debug!(%server, %failure, "the watch of the Lease ended");
                }
                self.set_watching(false, now);
            }
        }
    }

    fn set_watching(&mut self, watching: bool, now: Instant) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.watching, watching) != watching);
        self.election.set_watching(watching, now);
    }

    fn keep(&mut self, lease: Lease) {
        if self.leases.len() == LEASES_MAX {
            self.leases.pop_front();
        }
        self.leases.push_back(lease);
    }
}

fn place(config: &Config) -> Place {
    Place { namespace: config.namespace.clone(), name: config.name.clone() }
}

/// What is pending; for ever, where nothing is.
async fn pending<T>(future: &mut Option<Pending<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
