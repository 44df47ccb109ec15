//! Files, by Landlock (landlock(7)): what vipd may read is up to its user and the Pod, which mount and own what it needs. It writes and makes
//! files in a few folders alone, and runs no program but itself.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetStatus,
};

use super::capabilities;
use crate::logging;

/// The newest interface that is asked for; an older kernel's does less.
const NEWEST: ABI = ABI::V5;

/// Where a program that it starts has its standard streams.
const NOWHERE: &str = "/dev/null";

/// Restricts the calling thread, those it begins later, and the one that writes the log.
///
/// # Errors
/// The kernel has no Landlock, or it is switched off; or a folder can't be opened.
pub(super) fn restrict(folders: &[PathBuf]) -> io::Result<()> {
    let ruleset = ruleset(folders).map_err(io::Error::other)?;
    let of_the_log = ruleset.try_clone()?;
    // It was begun before it was known what there is to be written. All it writes to is open.
    let confined = logging::on_its_thread(Box::new(move || {
        drop(capabilities::drop_all());
        drop(of_the_log.restrict_self());
    }));
    if !confined {
        return Err(io::Error::other("the thread that writes the log is too busy"));
    }
    let status = ruleset.restrict_self().map_err(io::Error::other)?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel has no Landlock, or it is switched off",
        )),
    }
}

fn ruleset(folders: &[PathBuf]) -> Result<RulesetCreated, landlock::RulesetError> {
    let changing = AccessFs::from_write(NEWEST) | AccessFs::Execute;
    let mut ruleset =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(changing)?.create()?;
    let in_folder = AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    for folder in folders {
        ruleset = allow(ruleset, there(folder), in_folder)?;
    }
    ruleset = allow(ruleset, Path::new(NOWHERE), AccessFs::WriteFile.into())?;
    // The file of the program may be another by the time that the next vipd takes over from this one.
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        ruleset = allow(ruleset, folder, AccessFs::Execute.into())?;
    }
    // A static program, as vipd is released, has none.
    if let Some(linker) = linker() {
        ruleset = allow(ruleset, &linker, AccessFs::Execute.into())?;
    }
    Ok(ruleset)
}

/// What this program is linked by when it starts, where it is.
fn linker() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut files = maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5));
    let is_linker = |file: &&str| file.rsplit('/').next().is_some_and(|name| name.starts_with("ld-"));
    files.find(is_linker).map(PathBuf::from)
}

/// A folder that isn't there is made when it is needed: in the one above it that is.
fn there(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(folder)
}

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    // What isn't there needs no permission.
    let Ok(opened) = PathFd::new(path) else { return Ok(ruleset) };
    let rule = PathBeneath::new(opened, access).set_compatibility(CompatLevel::BestEffort);
    ruleset.add_rule(rule)
}
