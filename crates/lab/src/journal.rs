//! A bounded history that observers append to from their threads and readers wait on.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::watch;
use tokio::time::Instant;

/// The latest entries of one observer, oldest first.
#[derive(Debug)]
pub struct Journal<T> {
    entries: Mutex<VecDeque<T>>,
    limit: usize,
    written: watch::Sender<u64>,
}

impl<T: Clone> Journal<T> {
    /// An empty journal that forgets its oldest entry rather than grow beyond the limit.
    pub fn new(limit: usize) -> Self {
        Self { entries: Mutex::new(VecDeque::new()), limit, written: watch::Sender::new(0) }
    }

    /// Appends one entry and wakes whoever waits.
    pub fn push(&self, entry: T) {
        {
            let mut entries = self.lock();
            if entries.len() == self.limit {
                entries.pop_front();
            }
            entries.push_back(entry);
        }
        self.written.send_modify(|count| *count += 1);
    }

    /// A copy of all entries.
    pub fn entries(&self) -> Vec<T> {
        self.lock().iter().cloned().collect()
    }

    /// Forgets all entries.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Reads the entries in place, without a copy; the reader must be quick.
    pub fn read<R>(&self, reader: impl FnOnce(&VecDeque<T>) -> R) -> R {
        reader(&self.lock())
    }

    /// Waits until the question about the entries has an answer, asking again after each new entry;
    /// none if the deadline comes first.
    pub async fn wait_for<R>(
        &self,
        deadline: Instant,
        mut question: impl FnMut(&VecDeque<T>) -> Option<R>,
    ) -> Option<R> {
        let mut written = self.written.subscribe();
        loop {
            if let Some(answer) = self.read(&mut question) {
                return Some(answer);
            }
            tokio::time::timeout_at(deadline, written.changed()).await.ok()?.ok()?;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.entries.lock().expect("no reader or writer panics while it holds the lock")
    }
}
