//! What is remembered of the cluster, for a start without an API: a small file, whole or not at all.

use std::{
    io::{self, Write as _},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// The file is this long at most; a control plane of thirty nodes needs a tenth.
const BYTES_MAX: u64 = 64 * 1024;

/// Reads what was remembered; nothing, if there is no such file.
///
/// # Errors
///
/// The file is there and can't be read, or isn't one of ours.
pub(super) fn recall<T: Default + DeserializeOwned>(file: &Path) -> io::Result<T> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > BYTES_MAX => {
            return Err(io::Error::other(format!("is {} bytes long", metadata.len())));
        }
        Ok(_) => {}
    }
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

/// Writes it down.
///
/// # Errors
///
/// The folder or file can't be written; what was remembered stays.
pub(super) fn remember(what: &impl Serialize, file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let part = file.with_extension("part");
    let mut out = std::fs::File::create(&part)?;
    out.write_all(&serde_json::to_vec_pretty(what)?)?;
    out.sync_all()?;
    std::fs::rename(part, file)
}
