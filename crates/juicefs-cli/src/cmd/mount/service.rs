//! The process that serves a mount. It puts the layers together, waits for the end, and takes them down again.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use juicefs_chunk::Store;
use juicefs_core::{ChunkStore, Meta, SystemClock};
use juicefs_fuse::Mounted;
use juicefs_meta::Client;
use juicefs_vfs::Vfs;
use tokio::runtime::Runtime;

use super::{
    config_json, flags::Flags, follow::Follower, mountpoint, predecessors, present, ready, session, settings, shutdown,
};
use crate::{
    cmd::status::SessionRecord,
    config::resolved::MountConfig,
    runtime,
    volume::{load_format, open_engine_with, open_storage},
};

/// How long tasks that are still under way may take once everything was flushed and closed.
const RUNTIME_END: Duration = Duration::from_secs(5);

/// A mount with the layers below it.
struct Served {
    vfs: Arc<Vfs>,
    mounted: Mounted,
    follower: Follower,
    ready: String,
}

/// Serves the mount until it ends. `on_ready` is called once with the message for the user. Returns the exit code. If
/// such a mount is there already it is not made again.
///
/// # Errors
/// Why there is no mount; nothing is left mounted then.
pub(super) fn serve(config: &MountConfig, flags: &Flags, on_ready: impl FnOnce(&str)) -> Result<u8> {
    let rt = runtime::of_mount()?;
    // From here on a signal does not kill the process but ends the mount, even one that is just being made.
    let signals = rt.block_on(async { shutdown::Signals::catch(config.process.background) })?;
    let served = match rt.block_on(assemble(config, flags))? {
        Begun::Assembled(assembled) => assembled.mount(&rt, config)?,
        Begun::There(text) => {
            on_ready(&text);
            return Ok(0);
        }
    };
    on_ready(&served.ready);
    let end = rt.block_on(shutdown::wait(&served.mounted, &served.vfs, signals));
    let code = shutdown::take_down(&rt, &served.vfs, served.mounted, &end);
    rt.block_on(served.follower.end());
    // A forced end must not go on writing behind the back of whoever takes over.
    if code == shutdown::EXIT_STOP {
        rt.shutdown_background()
    } else {
        rt.shutdown_timeout(RUNTIME_END)
    }
    Ok(code)
}

/// All layers of a mount but the mount itself.
struct Assembled {
    vfs: Arc<Vfs>,
    follower: Follower,
    format: juicefs_core::Format,
    config: MountConfig,
}

/// How the begin of a mount ended.
enum Begun {
    Assembled(Box<Assembled>),
    /// Such a mount is there already, as this sentence says.
    There(String),
}

async fn assemble(config: &MountConfig, flags: &Flags) -> Result<Begun> {
    let engine = open_engine_with(&config.meta_url, config.meta.read_only, config.meta.retries).await?;
    let stored = load_format(&engine).await?;
    let config = MountConfig { mountpoint: mountpoint::prepare(&config.mountpoint)?, ..config.clone() };
    if let Some(there) = present::look(&config, flags, &stored)? {
        return Ok(Begun::There(there));
    }
    let format = settings::overridden(&stored, &config.overrides)?;
    let storage = open_storage(&format)?;
    if config.data.check_storage {
        let place = storage.objects.describe();
        juicefs_chunk::selftest(storage.objects.as_ref())
            .await
            .with_context(|| format!("Storage {place} does not work"))?;
    }
    let chunk_config = settings::chunk(&config, &format, storage.cipher)?;
    let meta = Client::open(engine, settings::client(&config)).await.context("open the volume")?;
    let store = Store::open(chunk_config, storage.blocks);
    let follower = Follower::start(Arc::clone(&meta), &store, config.clone(), format.clone());
    let chunks: Arc<dyn ChunkStore> = store;
    let record = session::record(&config.mountpoint, &config.meta.network_interfaces, config.meta.heartbeat);
    let sid = if config.meta.read_only {
        0
    } else {
        let sid = meta.new_session(serde_json::to_vec(&record)?.into()).await.context("create session")?.0;
        tracing::info!("Create session {sid} OK with version: {}", juicefs_core::version::CLIENT_VERSION);
        sid
    };
    let mut config_json = config_json::build(&config, &format, sid)?;
    flags.show_in(&mut config_json);
    let vfs = Vfs::new(meta.clone(), chunks, Arc::new(SystemClock), settings::vfs(&config, &format, config_json));
    if !config.meta.read_only {
        end_predecessors(&meta, &vfs, &record).await;
    }
    Ok(Begun::Assembled(Box::new(Assembled { vfs, follower, format, config })))
}

/// Ends the sessions of clients that died on this machine, before anything is served that they had locked. When that
/// fails it is left to the heartbeat.
async fn end_predecessors(meta: &Client, vfs: &Vfs, own: &SessionRecord) {
    let sessions = match meta.sessions().await {
        Ok(sessions) => sessions,
        Err(error) => return tracing::warn!(%error, "sessions of dead clients are left to expire"),
    };
    let dead = predecessors::dead(&sessions, own);
    if dead.is_empty() {
        return;
    }
    tracing::info!(?dead, "ending the sessions of clients that died on this machine");
    if let Err(errno) = vfs.end_sessions(&dead).await {
        tracing::warn!("sessions of dead clients are left to expire: {errno}");
    }
}

impl Assembled {
    /// Mounts. On a failure the session is closed again.
    fn mount(self, rt: &Runtime, original: &MountConfig) -> Result<Served> {
        let Self { vfs, follower, format, config } = self;
        vfs.start(rt.handle());
        tracing::info!("Mounting volume {} at {:?} ...", format.name, config.mountpoint);
        let options = settings::fuse(&config, &format);
        let mounted = Mounted::mount(Arc::clone(&vfs), rt.handle().clone(), options)
            .map_err(anyhow::Error::from)
            .and_then(|mounted| match ready::check(&config.mountpoint, config.process.ready_timeout) {
                Ok(()) => Ok(mounted),
                Err(error) => {
                    shutdown::give_up(&mounted);
                    Err(error)
                }
            });
        match mounted {
            Ok(mounted) => {
                let ready = format!("OK, {} is ready at {}", format.name, original.mountpoint.display());
                Ok(Served { vfs, mounted, follower, ready })
            }
            Err(error) => {
                if let Err(errno) = rt.block_on(vfs.shutdown()) {
                    tracing::warn!("closing the session: {errno}");
                }
                rt.block_on(follower.end());
                Err(error)
            }
        }
    }
}
