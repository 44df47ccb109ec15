//! Lets it all happen: load, changes and samples, and what is to be at the end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Plan;
use super::book::Book;
use super::change::{ALWAYS_LISTED, Standing, Way};
use super::client::{Load, Report};
use super::kind::{Scale, between};
use super::sample::Metrics;
use super::site::{BACKENDS, Site, TARGET, address};
use super::totals::{Check, Lives, checks};
use crate::demo::{Console, readable};
use crate::process::Process;
use crate::taken::{Taken, open_files, taken};

/// What vipd is to notice, it has noticed by then, and what is to end has ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often vipd is asked whether it has.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// Descriptors that are the same for so many looks, a second apart, are at rest.
const LOOKS: usize = 3;
/// Samples of a soak, and the time between two at most.
const SAMPLES: u32 = 60;
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Every so many samples, one is told of.
const TELL_EVERY: usize = 6;
/// Streams of the second load have numbers beyond those of the first.
const SECOND: u64 = 1 << 56;

/// vipd at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) taken: Taken,
    /// Open connections, as vipd counts them.
    pub(super) open: u64,
}

/// What is known at the end.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) samples: Vec<Sample>,
    pub(super) before: Taken,
    pub(super) after: Taken,
    pub(super) changes: BTreeMap<Way, u64>,
    pub(super) checks: Vec<Check>,
    /// Share of one processor that vipd took.
    pub(super) cpu: f64,
}

/// What a director is given.
pub(super) struct Means<'a> {
    pub(super) book: &'a RefCell<Book>,
    pub(super) plan: &'a Plan,
    pub(super) scale: Scale,
    /// Where clients report.
    pub(super) reports: mpsc::Sender<Report>,
    /// How often vipd has read its file again.
    pub(super) reloaded: watch::Receiver<u64>,
}

/// Who lets it happen.
pub(super) struct Director<'a> {
    site: Site,
    vipd: Process,
    pid: u32,
    means: Means<'a>,
    standing: Standing,
    lives: Lives,
    dice: Rng,
    changes: BTreeMap<Way, u64>,
    samples: Vec<Sample>,
}

impl<'a> Director<'a> {
    /// A director of a site where vipd has just been started.
    ///
    /// # Errors
    /// If vipd has ended already, or the kernel doesn't tell how much it buffers.
    pub(super) fn new(site: Site, vipd: Process, means: Means<'a>) -> Result<Self> {
        let pid = vipd.pid().context("vipd runs")?;
        means.book.borrow_mut().in_flight = buffered()?;
        Ok(Self {
            site,
            vipd,
            pid,
            standing: Standing::well(),
            lives: Lives::default(),
            dice: Rng::with_seed(means.plan.seed),
            means,
            changes: BTreeMap::new(),
            samples: Vec::new(),
        })
    }

    /// The whole of it, up to when all connections have ended.
    pub(super) async fn run(&mut self) -> Result<Outcome> {
        self.until_up().await?;
        for place in 0..BACKENDS {
            self.until_backend(place, "ready").await?;
        }
        // All that is made once is made now: threads, buffers, what the allocator keeps.
        let (stop, load) = self.load(0);
        sleep((self.means.plan.lasts / 20).clamp(Duration::from_secs(4), Duration::from_secs(60))).await;
        self.wind_up(stop, load).await?;
        let before = self.at_rest(None).await?;

        let (stop, load) = self.load(SECOND);
        let cpu = self.look().await?.cpu();
        self.live(&load).await?;
        let cpu = (self.look().await?.cpu() - cpu) / self.means.plan.lasts.as_secs_f64();
        while let Some((way, place)) = self.standing.restore(&mut self.dice) {
            self.change(way, place).await?;
        }
        self.wind_up(stop, load).await?;
        let after = self.at_rest(Some(before)).await?;
        let mut checks = vec![self.check_rest(before, after)?];
        let metrics = self.look().await?;
        checks.extend(self::checks(&self.means.book.borrow(), &metrics, &self.lives));
        let (samples, changes) = (std::mem::take(&mut self.samples), std::mem::take(&mut self.changes));
        Ok(Outcome { samples, before, after, changes, checks, cpu })
    }

    /// Ends vipd.
    pub(super) async fn stop(&mut self) -> Result<Check> {
        self.vipd.signal(Signal::TERM)?;
        let status = timeout(PATIENCE, self.vipd.ended()).await.context("vipd does not end")??;
        Ok(Check::new(format!("vipd's end after SIGTERM: {status}"), status.success()))
    }

    /// Begins a load.
    fn load(&self, first: u64) -> (CancellationToken, JoinHandle<Result<()>>) {
        let stop = CancellationToken::new();
        let load = Load {
            target: TARGET,
            seed: self.means.plan.seed,
            dice: self.means.plan.seed ^ first,
            first,
            scale: self.means.scale,
            reports: self.means.reports.clone(),
            stop: stop.clone(),
        };
        let client = std::sync::Arc::clone(&self.site.client.namespace);
        (stop, tokio::spawn(async move { client.run(move || load.run()).await }))
    }

    /// Has a load end in good order, and waits until everybody has told of it.
    async fn wind_up(&mut self, stop: CancellationToken, load: JoinHandle<Result<()>>) -> Result<()> {
        stop.cancel();
        let limit = PATIENCE + 4 * self.means.scale.bulk;
        timeout(limit, load).await.context("streams do not end")???;
        self.until("all connections closed", |metrics| metrics.frontend("open_connections") == Some(0))
            .await?;
        let deadline = Instant::now() + PATIENCE;
        while self.means.book.borrow().unsettled() > 0 && Instant::now() < deadline {
            sleep(ASK_INTERVAL).await;
        }
        Ok(())
    }

    /// Changes and samples, side by side, as long as the load is to last.
    async fn live(&mut self, load: &JoinHandle<Result<()>>) -> Result<()> {
        let lasts = self.means.plan.lasts;
        let (began, every) = (Instant::now(), (lasts / SAMPLES).min(SAMPLE_INTERVAL));
        let pause = (lasts / 15).clamp(Duration::from_secs(2), Duration::from_secs(20)).as_secs_f64();
        let mut sample_at = began + every;
        let mut change_at = began + between(&mut self.dice, pause * 0.5, pause * 1.5);
        while began.elapsed() < lasts {
            ensure!(!load.is_finished(), "the load has ended too early");
            sleep_until(sample_at.min(change_at)).await;
            if Instant::now() >= sample_at {
                self.sample(began).await?;
                sample_at = (sample_at + every).max(Instant::now());
            }
            if Instant::now() >= change_at {
                change_at = Instant::now() + between(&mut self.dice, pause * 0.5, pause * 1.5);
                // The first takes a backend out of the file: what a soak needs of a reload, a short one meets, too.
                let first = self.changes.is_empty().then_some((Way::Remove, ALWAYS_LISTED));
                if let Some((way, place)) = first.or_else(|| self.standing.next(&mut self.dice)) {
                    self.change(way, place).await?;
                    *self.changes.entry(way).or_insert(0) += 1;
                }
            }
        }
        Ok(())
    }

    async fn sample(&mut self, began: Instant) -> Result<()> {
        let metrics = self.look().await?;
        self.site.command(&["status", "--json"]).await?;
        let sample =
            Sample { taken: taken(self.pid)?, open: metrics.frontend("open_connections").unwrap_or(0) };
        self.samples.push(sample);
        if self.samples.len().is_multiple_of(TELL_EVERY) {
            let book = self.means.book.borrow();
            let sum = |of: fn(&super::book::Sum) -> u64| book.kinds.values().map(of).sum::<u64>();
            Console.line(format!(
                "{:>9}  rss {} kB, pss {} kB, {} descriptors, {} open; {} streams, {} cut, {} failed; {} changes",
                readable(began.elapsed()),
                sample.taken.rss,
                sample.taken.pss,
                sample.taken.descriptors,
                sample.open,
                sum(|kind| kind.streams),
                sum(|kind| kind.cut),
                book.failed,
                self.changes.values().sum::<u64>(),
            ));
        }
        Ok(())
    }

    /// Does something to a backend, and waits until vipd knows.
    async fn change(&mut self, way: Way, place: usize) -> Result<()> {
        let backend = address(place);
        self.standing = self.standing.after(way, place);
        self.means.book.borrow_mut().calendar.opens(backend, way, Instant::now());
        let name = backend.to_string();
        match way {
            Way::Kill => self.end(place, Signal::KILL).await?,
            Way::Stop => {
                self.site.signal(place, Signal::USR1)?;
                self.until_backend(place, "draining").await?;
                self.close(place, Way::Start);
                self.end(place, Signal::TERM).await?;
            }
            Way::Start => self.site.start(place)?,
            Way::Drain => self.site.command(&["backend", "drain", &name]).await?,
            Way::Enable => self.site.command(&["backend", "enable", &name]).await?,
            Way::Remove | Way::Add => self.reload().await?,
        }
        match way {
            Way::Drain => self.close(place, Way::Enable),
            Way::Remove => self.close(place, Way::Add),
            Way::Kill | Way::Stop | Way::Start | Way::Enable | Way::Add => {}
        }
        // One that is listed no more is watched only as long as it has connections.
        if self.standing.listed[place] && self.standing.running[place] {
            self.until_backend(place, "ready").await?;
        } else if self.standing.listed[place] {
            self.until_backend(place, "dead").await?;
            self.close(place, Way::Start);
        }
        Ok(())
    }

    /// Ends a backend's process.
    async fn end(&mut self, place: usize, signal: Signal) -> Result<()> {
        self.means.book.borrow_mut().calendar.dies(address(place), Instant::now());
        self.site.signal(place, signal)?;
        self.site.ended(place).await?;
        self.means.book.borrow_mut().calendar.is_dead(address(place), Instant::now());
        Ok(())
    }

    fn close(&self, place: usize, undone_by: Way) {
        self.means.book.borrow_mut().calendar.closes(address(place), undone_by, Instant::now());
    }

    async fn reload(&mut self) -> Result<()> {
        self.site.configure(&self.means.scale, &self.standing.listed)?;
        let before = *self.means.reloaded.borrow_and_update();
        self.vipd.signal(Signal::HUP)?;
        let reloaded = self.means.reloaded.wait_for(|count| *count > before);
        timeout(PATIENCE, reloaded).await.context("vipd does not read its file again")??;
        Ok(())
    }

    /// Waits until vipd answers.
    async fn until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.look().await {
            if Instant::now() > deadline {
                return Err(error);
            }
            sleep(ASK_INTERVAL).await;
        }
        Ok(())
    }

    async fn until_backend(&mut self, place: usize, state: &str) -> Result<()> {
        let what = format!("{} {state}", address(place));
        self.until(&what, |metrics| metrics.is(address(place), state)).await
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Metrics) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if holds(&self.look().await?) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not in {}: {what}", readable(PATIENCE));
            sleep(ASK_INTERVAL).await;
        }
    }

    async fn look(&mut self) -> Result<Metrics> {
        let metrics = Metrics::fetch(&self.site.balancer.namespace).await?;
        self.lives.see(&metrics);
        Ok(metrics)
    }

    /// Waits until vipd has a number of descriptors and threads that stays, or the one it had before; what it is, is judged later.
    async fn at_rest(&self, wanted: Option<Taken>) -> Result<Taken> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen: Vec<(usize, usize)> = Vec::new();
        loop {
            let now = taken(self.pid)?;
            seen.push((now.descriptors, now.threads));
            let last = &seen[seen.len().saturating_sub(LOOKS)..];
            let rests = last.len() == LOOKS && last.iter().all(|look| *look == last[0]);
            let is_wanted = wanted.is_none_or(|it| (it.descriptors, it.threads) == last[0]);
            if rests && is_wanted || Instant::now() > deadline {
                return Ok(now);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn check_rest(&self, before: Taken, after: Taken) -> Result<Check> {
        let same = (before.descriptors, before.threads) == (after.descriptors, after.threads);
        let what = format!(
            "at rest: {} descriptors before, {} after; {} threads before, {} after",
            before.descriptors, after.descriptors, before.threads, after.threads
        );
        let open = if same { String::new() } else { format!("; open: {:?}", open_files(self.pid)?) };
        Ok(Check::new(what + &open, same))
    }
}

/// The most that the kernel keeps of one stream: what was written and not read, on the two connections that it takes, with what vipd holds
/// and a piece at each end.
fn buffered() -> Result<u64> {
    let most = |file: &str| -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{file}"))?;
        let number = text.split_ascii_whitespace().nth(2).and_then(|word| word.parse().ok());
        number.with_context(|| format!("{file} has three numbers"))
    };
    Ok(most("tcp_wmem")? + most("tcp_rmem")? + (1 << 20))
}
