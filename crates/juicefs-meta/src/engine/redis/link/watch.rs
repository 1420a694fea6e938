//! A connection on which the server tells which keys have changed (`CLIENT TRACKING`, RESP3).

use std::{sync::Arc, time::Duration};

use redis::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    backoff,
    dialogue::{Dialogue, said, server_error},
    request::Request,
    scout::Scout,
    trouble::SetupError,
};

/// Between two questions whether the server is there, and still has the keys.
const BEAT: Duration = Duration::from_secs(1);
/// A server that has not answered after so long is given up. Whoever believes what was told decides for how long a silence.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who wants to know of changes.
pub(crate) trait Witness: Send + Sync + 'static {
    /// From now on, every change is told.
    fn begin(&self, now: Instant);
    /// What had changed before `asked` has been told.
    fn heard(&self, asked: Instant);
    /// Something was done to a key.
    fn changed(&self, key: &[u8]);
    /// Changes may be missed from now on.
    fn end(&self);
}

/// Which keys to watch.
pub(super) struct Watched {
    /// What they begin with.
    pub(super) prefixes: Vec<Vec<u8>>,
    /// One that never exists, where they are: its server says so when they have moved, or are about to.
    pub(super) probe: Vec<u8>,
}

/// Why a watch ended.
enum End {
    /// It may go better the next time.
    Lost(String),
    /// It will not.
    Impossible(String),
}

impl From<SetupError> for End {
    fn from(error: SetupError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Watches until it is dropped, or until the server turns out to be unable to tell.
pub(super) async fn keep(scout: Arc<Scout>, watched: Watched, witness: Arc<dyn Witness>) {
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let ended = watch(&scout, &watched, witness.as_ref()).await;
        witness.end();
        match ended {
            End::Impossible(why) => {
                tracing::warn!("client-cache has no effect: {why}");
                return;
            }
            End::Lost(why) => {
                failures = if began.elapsed() > BEAT { 0 } else { failures + 1 };
                tracing::info!("nothing is cached until Redis tells of changes again: {why}");
            }
        }
        sleep(backoff(scout.address().options(), failures)).await;
    }
}

async fn watch(scout: &Scout, watched: &Watched, witness: &dyn Witness) -> End {
    match begin(scout, watched).await {
        Ok((mut dialogue, since)) => {
            witness.begin(since);
            let Err(end) = listen(&mut dialogue, watched, witness).await;
            end
        }
        Err(end) => end,
    }
}

/// A connection on which the server tells of changes, and since when.
async fn begin(scout: &Scout, watched: &Watched) -> Result<(Dialogue, Instant), End> {
    let mut dialogue = scout.converse(None, scout.address().options().connect_timeout).await?;
    let mut request = Request::of(&["HELLO", "3"]);
    let mut track: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON", b"BCAST"];
    track.extend(watched.prefixes.iter().flat_map(|prefix| [&b"PREFIX"[..], prefix]));
    request.command(&track);
    let replies = dialogue.ask(&request).await?;
    match replies.iter().find_map(|reply| if let Value::ServerError(error) = reply { Some(error) } else { None }) {
        None => {}
        Some(error) => {
            let why = format!("{} does not tell of changes: {}", dialogue.target(), said(error));
            return Err(End::Impossible(why));
        }
    }
    // A node that the keys are leaving tells of those that it still has only.
    let since = Instant::now();
    let replies = dialogue.ask(&Request::of(&[b"EXISTS", watched.probe.as_slice()])).await?;
    match replies.into_iter().find_map(server_error) {
        None => Ok((dialogue, since)),
        Some(error) => Err(End::Lost(said(&error))),
    }
}

/// Passes on what the server tells, and sees to it that it is there.
async fn listen(
    dialogue: &mut Dialogue,
    watched: &Watched,
    witness: &dyn Witness,
) -> Result<std::convert::Infallible, End> {
    let probe = Request::of(&[b"EXISTS", watched.probe.as_slice()]);
    loop {
        let asked = Instant::now();
        dialogue.tell(&probe).await?;
        let mut answered = false;
        // Messages may come without a pause.
        while !answered || asked.elapsed() < BEAT {
            let due = asked + if answered { BEAT } else { PATIENCE };
            match timeout_at(due, dialogue.listen()).await {
                Ok(messages) => {
                    for message in messages? {
                        answered |= hear(message, asked, witness)?;
                    }
                }
                Err(_elapsed) if answered => break,
                Err(_elapsed) => {
                    return Err(End::Lost(format!("{} does not answer within {PATIENCE:?}", dialogue.target())));
                }
            }
        }
    }
}

/// Deals with one message; whether it is the answer to what was asked.
fn hear(message: Value, asked: Instant, witness: &dyn Witness) -> Result<bool, End> {
    match message {
        Value::Int(_) => {
            witness.heard(asked);
            return Ok(true);
        }
        Value::ServerError(error) => return Err(End::Lost(said(&error))),
        Value::Array(parts) => pass_on(&parts, witness)?,
        _ => {}
    }
    Ok(false)
}

/// A message of the kind `invalidate` with the keys that changed, or without when all may have.
fn pass_on(parts: &[Value], witness: &dyn Witness) -> Result<(), End> {
    match parts {
        [Value::BulkString(kind), Value::Array(keys)] if kind == b"invalidate" => {
            for key in keys {
                if let Value::BulkString(key) = key {
                    witness.changed(key);
                }
            }
            Ok(())
        }
        [Value::BulkString(kind), _] if kind == b"invalidate" => Err(End::Lost("all keys were flushed".to_owned())),
        _ => Ok(()),
    }
}
