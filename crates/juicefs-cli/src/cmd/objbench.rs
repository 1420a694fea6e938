//! `juicefs objbench` tests whether an object storage does what volumes need, and how fast (cli.md §8.2).

mod functional;
mod load;
mod report;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use juicefs_core::{Format, ObjectStorage};

use self::{
    load::{Load, Step},
    report::Report,
};
use crate::{
    config::{
        args::ObjbenchArgs,
        resolved::{
            Surroundings,
            volume::{storage_kind, stored_bucket},
        },
    },
    terminal,
};

/// Runs the tests and the benchmark, and prints their tables, which show what failed.
///
/// # Errors
/// When a flag is out of range, or the storage cannot be used at all.
pub(crate) async fn run(args: &ObjbenchArgs, colors: bool, here: &Surroundings) -> Result<()> {
    let threads = check(args)?;
    let colors = colors && terminal::shows_colors();
    let storage = storage_kind(&args.storage)?;
    if storage == "file" && args.endpoint.contains("://") {
        tracing::warn!("The bucket {:?} doesn't look like a file path.", args.endpoint);
        tracing::warn!("Did you forget to specify the `--storage <type>`?");
        if !terminal::confirm("Proceed anyway?")? {
            bail!("Aborted");
        }
    }
    let store = open(args, storage, here)?;
    tracing::info!("Objects lie below {}", store.describe());
    if args.skip_functional_tests {
        store.create().await.context("can't create bucket")?;
    } else {
        terminal::print("Start Functional Testing ...")?;
        let cases = functional::run(store.as_ref()).await;
        terminal::print(&report::of_cases(&cases, colors))?;
    }
    terminal::print("Start Performance Testing ...")?;
    let load = Load::new(Arc::clone(&store), args, threads);
    let mut report = Report::default();
    for step in Step::ALL {
        let bar = terminal::progress(step.title(), load.count(step));
        let done = load.run(step, &bar).await;
        bar.finish();
        report.add(step, &load, done);
    }
    load.clean_up().await;
    terminal::print(&format!("Benchmark finished! {}", report::parameters(args, threads)))?;
    terminal::print(report.text(colors).trim_end())?;
    Ok(())
}

/// Checks the numbers and returns how many threads there are.
fn check(args: &ObjbenchArgs) -> Result<u32> {
    let sizes = [
        ("--block-size", args.block_size),
        ("--big-object-size", args.big_object_size),
        ("--small-object-size", args.small_object_size),
        ("--small-objects", args.small_objects.into()),
        ("--threads", args.threads.into()),
    ];
    if let Some((flag, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
        bail!("{flag} 0 is not possible: give at least 1");
    }
    let fewest = load::blocks(args).min(args.small_objects);
    if args.threads > fewest {
        tracing::warn!("There are {fewest} objects of a kind for {} threads: using {fewest} threads", args.threads);
    }
    Ok(args.threads.min(fewest))
}

/// The part of the storage that the benchmark has for itself.
#[allow(clippy::disallowed_methods, reason = "only makes the name of the place unique")]
fn open(args: &ObjbenchArgs, storage: String, here: &Surroundings) -> Result<Arc<dyn ObjectStorage>> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let secret = |flag: &Option<String>, name: &str| {
        let given = flag.clone().filter(|value| !value.is_empty());
        given.or_else(|| here.var(name).map(str::to_owned)).unwrap_or_default()
    };
    let format = Format {
        name: format!("__juicefs_benchmark_{nanos}__"),
        bucket: stored_bucket(&storage, &args.endpoint, here)?,
        storage,
        storage_class: args.storage_class.clone().unwrap_or_default(),
        access_key: secret(&args.access_key, "ACCESS_KEY"),
        secret_key: secret(&args.secret_key, "SECRET_KEY"),
        session_token: secret(&args.session_token, "SESSION_TOKEN"),
        shards: args.shards,
        ..Format::default()
    };
    let variable = |name: &str| here.var(name).map(str::to_owned);
    juicefs_chunk::open_storage_with(&format, &variable).context("create storage")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ObjbenchArgs {
        ObjbenchArgs {
            endpoint: "/tmp".into(),
            storage: "file".into(),
            access_key: None,
            secret_key: None,
            session_token: None,
            shards: 0,
            block_size: 4 << 20,
            big_object_size: 10 << 20,
            small_object_size: 128 << 10,
            small_objects: 100,
            skip_functional_tests: false,
            threads: 4,
            storage_class: None,
        }
    }

    #[test]
    fn zeros_are_refused_and_threads_have_objects() {
        assert_eq!(check(&args()).expect("good"), 3, "three blocks of 4 MiB");
        assert_eq!(check(&ObjbenchArgs { small_objects: 2, ..args() }).expect("good"), 2);
        assert_eq!(check(&ObjbenchArgs { threads: 1, ..args() }).expect("good"), 1);
        let zeros = [
            ObjbenchArgs { block_size: 0, ..args() },
            ObjbenchArgs { big_object_size: 0, ..args() },
            ObjbenchArgs { small_object_size: 0, ..args() },
            ObjbenchArgs { small_objects: 0, ..args() },
            ObjbenchArgs { threads: 0, ..args() },
        ];
        for bad in zeros {
            assert!(check(&bad).expect_err("a zero").to_string().contains(" 0 is not possible"));
        }
    }

    #[test]
    fn parameters_are_shown() {
        assert_eq!(
            report::parameters(&args(), 3),
            "block-size: 4.0 MiB, big-object-size: 10 MiB, small-object-size: 128 KiB, small-objects: 100, NumThreads: 3"
        );
    }
}
