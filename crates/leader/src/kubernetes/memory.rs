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

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    #[test]
    fn a_memory_of_many_nodes_is_read_and_a_file_without_end_is_not() {
        let file = env::temp_dir().join(format!("vipd-memory-{}", std::process::id()));
        let of_length = |length: usize| {
            fs::write(&file, format!("[7]{}", " ".repeat(length - 3))).unwrap();
            recall::<Vec<u8>>(&file)
        };
        assert_eq!(of_length(64 * 1024).unwrap(), [7]);
        assert_eq!(of_length(64 * 1024 + 1).unwrap_err().to_string(), "is 65537 bytes long");
        fs::remove_file(&file).unwrap();
        assert_eq!(recall::<Vec<u8>>(&file).unwrap(), [0; 0]);
    }
}
