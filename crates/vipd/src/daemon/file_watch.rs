//! When a file may have changed: by inotify(7), on the folders that lead to it.
//!
//! A folder is watched rather than the file: editors and deployment tools put a new file in the place of the old one, and a volume of a
//! ConfigMap swaps a symbolic link (`..data`) that the file's own link leads through. Where the file is a link to another folder, that
//! one is watched too. Only whole news counts: a file that was closed after writing, or one that was moved there.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::net::unix::pipe;

/// Bytes of events that are read at a time: some hundred of them. What is left is read next.
const EVENTS: usize = 16 * 1024;

/// The part of an event before its name (`struct inotify_event`).
const HEAD: usize = 16;

/// A file whose changes are heard of.
pub(super) struct FileWatch {
    file: PathBuf,
    /// The descriptor of inotify: a stream of bytes, as far as the event loop is concerned.
    events: pipe::Receiver,
    /// The folders that are watched, by the number that events have: at most two.
    folders: BTreeMap<i32, Folder>,
}

/// A folder, and the name in it that matters besides those that begin with two dots.
#[derive(Debug, PartialEq, Eq)]
struct Folder {
    path: PathBuf,
    name: OsString,
}

impl FileWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The kernel has no watch left (fs.inotify.max_user_watches), or the folder isn't there.
    pub(super) fn new(file: &Path) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // It is no pipe, and is read like one.
        let events = pipe::Receiver::from_owned_fd_unchecked(events)?;
        let mut this = Self { file: file.to_owned(), events, folders: BTreeMap::new() };
        this.follow()?;
        Ok(this)
    }

    /// Waits until the file may be another. Cancel-safe.
    ///
    /// # Errors
    /// Its folder can't be watched any more.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            self.events.readable().await?;
            // All that has happened is one change.
            let mut matters = false;
            let mut bytes = [0; EVENTS];
            loop {
                match self.events.try_read(&mut bytes) {
                    Ok(length) => matters |= events(&bytes[..length]).any(|event| self.matters(&event)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if matters {
                // Links may lead elsewhere now.
                self.follow()?;
                return Ok(());
            }
        }
    }

    fn matters(&self, event: &Event<'_>) -> bool {
        // Too many at once for the kernel's queue: anything may have happened.
        if event.mask.contains(ReadFlags::QUEUE_OVERFLOW) {
            return true;
        }
        let Some(folder) = self.folders.get(&event.folder) else { return false };
        match event.name {
            Some(name) => name == folder.name || name.as_bytes().starts_with(b".."),
            // The folder itself has gone.
            None => true,
        }
    }

    /// Watches the folders that lead to the file now.
    fn follow(&mut self) -> io::Result<()> {
        let mut wanted = BTreeMap::new();
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let named = folder(&self.file)?;
        wanted.insert(inotify::add_watch(&self.events, &named.path, flags)?, named);
        // A file that is just being replaced leads nowhere, and comes back with an event.
        if let Some(real) = fs::canonicalize(&self.file).ok().and_then(|file| folder(&file).ok())
            && let Ok(number) = inotify::add_watch(&self.events, &real.path, flags)
        {
            wanted.entry(number).or_insert(real);
        }
        for number in self.folders.keys().filter(|number| !wanted.contains_key(number)) {
            // It fails where the folder is gone, and its watch with it.
            let _ = inotify::remove_watch(&self.events, *number);
        }
        self.folders = wanted;
        Ok(())
    }
}

/// The folder of a file.
fn folder(file: &Path) -> io::Result<Folder> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    let path = match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    Ok(Folder { path, name })
}

/// One event.
#[derive(Debug, PartialEq, Eq)]
struct Event<'a> {
    folder: i32,
    mask: ReadFlags,
    name: Option<&'a OsStr>,
}

/// The events in what was read: the kernel gives whole ones.
fn events(bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, after) = rest.split_at_checked(HEAD)?;
        let word = |at: usize| -> Option<[u8; 4]> { head.get(at..at + 4)?.try_into().ok() };
        let length = usize::try_from(u32::from_ne_bytes(word(12)?)).ok()?;
        let (name, after) = after.split_at_checked(length)?;
        rest = after;
        let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty());
        Some(Event {
            folder: i32::from_ne_bytes(word(0)?),
            mask: ReadFlags::from_bits_retain(u32::from_ne_bytes(word(4)?)),
            name: name.map(OsStr::from_bytes),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    /// Far more than the kernel takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vipd-watch-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    async fn changes(watch: &mut FileWatch) {
        tokio::time::timeout(PATIENCE, watch.changed()).await.expect("nothing was heard of it").unwrap();
    }

    /// Nothing that matters has happened: the next that does is the marker.
    async fn is_quiet(watch: &mut FileWatch) {
        let heard = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
        assert!(heard.is_err(), "something was heard");
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_is_heard_of_and_its_neighbours_are_not() {
        let scratch = Scratch::new("plain");
        let file = scratch.at("config.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = FileWatch::new(&file).unwrap();

        fs::write(scratch.at("other"), "x").unwrap();
        is_quiet(&mut watch).await;
        fs::write(&file, "two").unwrap();
        changes(&mut watch).await;
        fs::write(scratch.at(".config.yaml.swp"), "three").unwrap();
        fs::rename(scratch.at(".config.yaml.swp"), &file).unwrap();
        changes(&mut watch).await;
        is_quiet(&mut watch).await;
        fs::remove_file(&file).unwrap();
        fs::write(&file, "four").unwrap();
        changes(&mut watch).await;
    }

    /// As the kubelet does it.
    #[tokio::test]
    async fn a_config_map_that_is_swapped_is_heard_of_each_time() {
        let scratch = Scratch::new("configmap");
        let swap = |version: &str| {
            fs::create_dir(scratch.at(version)).unwrap();
            fs::write(scratch.at(version).join("config.yaml"), version).unwrap();
            symlink(version, scratch.at("..data_tmp")).unwrap();
            fs::rename(scratch.at("..data_tmp"), scratch.at("..data")).unwrap();
        };
        swap("..1");
        let file = scratch.at("config.yaml");
        symlink("..data/config.yaml", &file).unwrap();
        let mut watch = FileWatch::new(&file).unwrap();

        for (version, before) in [("..2", "..1"), ("..3", "..2")] {
            swap(version);
            changes(&mut watch).await;
            assert_eq!(fs::read_to_string(&file).unwrap(), version);
            fs::remove_dir_all(scratch.at(before)).unwrap();
            assert!(watch.folders.len() <= 2);
        }
    }

    #[tokio::test]
    async fn the_target_of_a_link_is_watched_and_so_is_the_next_one() {
        let scratch = Scratch::new("link");
        for place in ["one", "two"] {
            fs::create_dir(scratch.at(place)).unwrap();
            fs::write(scratch.at(place).join("real.yaml"), place).unwrap();
        }
        let file = scratch.at("config.yaml");
        symlink(scratch.at("one/real.yaml"), &file).unwrap();
        let mut watch = FileWatch::new(&file).unwrap();

        fs::write(scratch.at("one/real.yaml"), "changed").unwrap();
        changes(&mut watch).await;
        symlink(scratch.at("two/real.yaml"), scratch.at("next")).unwrap();
        fs::rename(scratch.at("next"), &file).unwrap();
        changes(&mut watch).await;
        fs::write(scratch.at("one/real.yaml"), "nobody's any more").unwrap();
        is_quiet(&mut watch).await;
        fs::write(scratch.at("two/real.yaml"), "changed").unwrap();
        changes(&mut watch).await;
    }

    #[tokio::test]
    async fn a_folder_that_goes_is_told_as_the_end_of_the_watch() {
        let scratch = Scratch::new("gone");
        fs::create_dir(scratch.at("folder")).unwrap();
        let mut watch = FileWatch::new(&scratch.at("folder/config.yaml")).unwrap();

        fs::remove_dir(scratch.at("folder")).unwrap();

        let heard = tokio::time::timeout(PATIENCE, watch.changed()).await.expect("nothing was heard of it");
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn events_are_read_to_their_last_byte_and_not_beyond() {
        let event = |folder: i32, mask: u32, name: &[u8]| {
            let length = u32::try_from(name.len()).unwrap();
            let words = [folder.to_ne_bytes(), mask.to_ne_bytes(), [0; 4], length.to_ne_bytes()];
            [&words.concat(), name].concat()
        };
        let bytes = [event(1, 8, b"a.yaml\0\0"), event(2, 0x400, b"")].concat();
        let found: Vec<_> = events(&bytes).collect();
        let a = Some(OsStr::new("a.yaml"));
        assert_eq!(found[0], Event { folder: 1, mask: ReadFlags::CLOSE_WRITE, name: a });
        assert_eq!(found[1], Event { folder: 2, mask: ReadFlags::DELETE_SELF, name: None });
        for cut in 0..bytes.len() {
            assert!(events(&bytes[..cut]).count() < 2);
        }
    }
}
