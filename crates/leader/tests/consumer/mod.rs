//! Who acts upon an election, for tests of its drivers.

use leader::{Handle, Leadership};
use tokio::task::JoinHandle;

/// Stands for the owner of the address: it holds nothing as soon as it is told to let go. It ends with the driver.
pub(crate) fn consumer(handle: &Handle) -> JoinHandle<()> {
    let mut leadership = handle.leadership();
    let confirming = handle.clone();
    tokio::spawn(async move {
        while leadership.changed().await.is_ok() {
            if matches!(*leadership.borrow_and_update(), Leadership::Follower { .. }) {
                confirming.confirm_standby();
            }
        }
    })
}
