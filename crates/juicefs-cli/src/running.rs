//! Reads what a mount says about itself in its file `.config`.

use std::{path::Path, sync::mpsc, time::Duration};

use serde_json::Value;

/// How long the file system may take to tell. A mount that hangs does not answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// The settings of the mount at `mountpoint`. `None` when it does not tell, because nobody serves it or this user may
/// not ask.
pub(crate) fn config_of(mountpoint: &Path) -> Option<Value> {
    let (send, receive) = mpsc::sync_channel(1);
    let files = [mountpoint.join(".jfs.config"), mountpoint.join(".config")];
    std::thread::spawn(move || {
        let text = files.iter().find_map(|file| std::fs::read(file).ok());
        // Nobody waits any more when this took too long.
        let _ = send.send(text.and_then(|text| serde_json::from_slice(&text).ok()));
    });
    receive.recv_timeout(ANSWER_WAIT).ok().flatten()
}
