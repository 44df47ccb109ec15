//! Breaks the rules of the election one by one, and demands that the test of that rule notices.
//!
//! A test that can't fail proves nothing. Each line of `table.rs` and of the files beside it is a change of the source that a tired programmer could
//! make, and the name of the test in `tests/contract` that has to fail by it. The crate is copied, and only the copy is
//! changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use table::Mutation;

mod clients;
mod lease;
mod table;
mod two_nodes;

/// Those of both elections.
fn mutations() -> impl Iterator<Item = &'static Mutation> {
    let tables = [table::MUTATIONS, two_nodes::MUTATIONS, clients::MUTATIONS, lease::MUTATIONS];
    tables.into_iter().flatten()
}

/// Mutants that are built at the same time, each in a copy of its own; more would only crowd a small machine.
const WORKERS: usize = 2;

/// A mutant that runs for so many seconds never ends.
const SECONDS_MAX: &str = "300";

/// The first build has all dependencies to compile, perhaps on a busy machine.
const FIRST_SECONDS_MAX: &str = "1800";

/// A copy of this crate that is a workspace of its own.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn make(worker: usize) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutations-{worker}"));
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = manifests.join("../..");
        let copy = Self { root };
        let krate = copy.krate();
        if krate.exists() {
            fs::remove_dir_all(&krate).expect("an earlier copy can be removed");
        }
        copy_tree(&manifests.join("src"), &krate.join("src"));
        copy_tree(&manifests.join("tests/contract"), &krate.join("tests/contract"));

        // Without optimisation and debug information, and without the crates that only other tests need, a mutant is
        // built in seconds.
        let manifest = read(&workspace.join("Cargo.toml"));
        let kept = manifest.lines().filter(|line| !line.starts_with("default-members"));
        let workspace_part =
            kept.take_while(|line| !line.starts_with("[profile")).collect::<Vec<_>>().join("\n");
        write(&copy.root.join("Cargo.toml"), &(workspace_part + "\n[profile.dev]\ndebug = false\n"));
        let manifest = read(&manifests.join("Cargo.toml"));
        let (needed, _) = manifest.split_once("[dev-dependencies]").expect("they come last");
        write(&krate.join("Cargo.toml"), needed);
        fs::copy(workspace.join("Cargo.lock"), copy.root.join("Cargo.lock")).expect("there is a lock file");
        copy
    }

    fn krate(&self) -> PathBuf {
        self.root.join("crates/leader")
    }

    fn test(&self, name: Option<&str>) -> Output {
        let mut cargo = Command::new("timeout");
        let limit = if name.is_some() { SECONDS_MAX } else { FIRST_SECONDS_MAX };
        cargo.args([limit, env!("CARGO")]);
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", self.root.join("target"));
        cargo.env_remove("RUST_BACKTRACE");
        cargo.args(["test", "--offline", "--quiet", "--package", "leader", "--test", "contract", "--"]);
        cargo.args(["--format", "pretty"]);
        if let Some(name) = name {
            cargo.args(["--exact", name]);
        }
        cargo.output().expect("cargo runs")
    }

    /// Runs all tests on the copy as it is.
    fn assert_sound(&self) {
        let sound = self.test(None);
        assert!(
            sound.status.success(),
            "the copy fails as it is ({}):\n{}{}",
            sound.status,
            String::from_utf8_lossy(&sound.stdout),
            String::from_utf8_lossy(&sound.stderr)
        );
    }

    /// Takes over what another copy has compiled of the dependencies, so that they are compiled once.
    fn share_dependencies_of(&self, other: &Self) {
        let (from, to) = (other.root.join("target"), self.root.join("target"));
        if to.exists() {
            return;
        }
        // By links, as a new time would make cargo compile it again.
        copy_tree_by(&from, &to, &|from, to| fs::hard_link(from, to));
        // What both compile must not be one file.
        let mut clean = Command::new(env!("CARGO"));
        clean.current_dir(&self.root).env("CARGO_TARGET_DIR", to);
        let status = clean.args(["clean", "--offline", "--quiet", "--package", "leader"]).status();
        assert!(status.expect("cargo runs").success(), "cargo can't clean the copy");
    }

    /// What is wrong with a mutation or its test, if anything.
    fn try_out(&self, Mutation { rule, file, find, replace, caught_by }: &Mutation) -> Result<(), String> {
        let path = self.krate().join("src").join(file);
        let original = read(&path);
        match original.matches(find).count() {
            1 => {}
            count => return Err(format!("{rule}: {find:?} occurs {count} times in {file}, not once")),
        }
        write(&path, &original.replace(find, replace));
        let output = self.test(Some(caught_by));
        write(&path, &original);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if out.contains(&format!("test {caught_by} ... FAILED")) {
            Ok(())
        } else if out.contains(&format!("test {caught_by} ... ok")) {
            Err(format!("{rule}: {caught_by} doesn't notice that in {file}\n{find}\nbecame\n{replace}"))
        } else {
            Err(format!("{rule}: {caught_by} wasn't run on {replace:?} in {file}\n{out}{err}"))
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    copy_tree_by(from, to, &|from, to| fs::copy(from, to).map(drop));
}

fn copy_tree_by(from: &Path, to: &Path, copy: &dyn Fn(&Path, &Path) -> io::Result<()>) {
    fs::create_dir_all(to).expect("the directory for temporary files is writable");
    for entry in fs::read_dir(from).expect("the source can be listed") {
        let entry = entry.expect("the source can be listed");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree_by(&entry.path(), &target, copy);
        } else {
            copy(&entry.path(), &target).expect("the source can be copied");
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Tries every so many-th mutation in a copy of its own.
fn work(worker: usize, copy: &Copy) -> Vec<String> {
    let mine = mutations().skip(worker).step_by(WORKERS);
    mine.filter_map(|mutation| copy.try_out(mutation).err()).collect()
}

#[test]
fn each_rule_broken_once_is_noticed_by_its_test() {
    let copies: Vec<Copy> = (0..WORKERS).map(Copy::make).collect();
    copies[0].assert_sound();
    copies[1..].iter().for_each(|copy| copy.share_dependencies_of(&copies[0]));
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let work = |(worker, copy)| scope.spawn(move || work(worker, copy));
        let workers: Vec<_> = copies.iter().enumerate().map(work).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker said why")).collect()
    });
    println!("{} of {} mutations were noticed", mutations().count() - wrong.len(), mutations().count());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
