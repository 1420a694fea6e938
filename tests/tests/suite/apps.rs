//! Real programs at work.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use e2e::{Owner, Pattern, Rest, Volume, run, run_in, run_within};

mod large_tree;
mod postgres;
mod python;
mod sqlite;

const REPOSITORY_FILES: usize = 10_000;

fn shell(dir: &Path, script: &str, limit: Duration) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dir);
    run_within(command, limit).expect_success().stdout
}

/// A bare repository with one commit of many files, made without a work tree.
fn repository(dir: &Path) -> PathBuf {
    let path = dir.join("origin.git");
    run("git", ["init", "--quiet", "--bare", "--initial-branch=main", &path.to_string_lossy()]).expect_success();
    let mut stream = String::from("commit refs/heads/main\ncommitter T <t@example.org> 1700000000 +0000\ndata 1\nx\n");
    for number in 0..REPOSITORY_FILES {
        let text = format!("file {number}\n").repeat(number % 97 + 1);
        let (mode, name) = match number % 100 {
            0 => ("100755", format!("tools/run-{number}.sh")),
            _ => ("100644", format!("src/part-{}/file-{number}.txt", number / 100)),
        };
        write!(stream, "M {mode} inline {name}\ndata {}\n{text}\n", text.len()).unwrap();
    }
    let mut import = Command::new("git")
        .args(["-C", &path.to_string_lossy(), "fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(stream.as_bytes()).unwrap();
    assert!(import.wait().unwrap().success());
    path
}

#[test]
fn git_clones_checks_and_commits_ten_thousand_files() {
    let volume = Volume::new();
    let mount = volume.mount();
    let origin = repository(volume.dir());
    let limit = Duration::from_secs(500);
    shell(mount.path(), &format!("git clone --quiet file://{} work", origin.display()), limit);
    let work = mount.join("work");
    shell(&work, "git fsck --full --strict", limit);
    assert_eq!(shell(&work, "git status --porcelain", limit), "");
    assert_eq!(shell(&work, "git ls-files | wc -l", limit).trim(), REPOSITORY_FILES.to_string());
    let change = "for f in src/part-7/*; do echo more >> $f; done; git mv src/part-8 src/moved; git rm -rq src/part-9;
        git -c user.name=t -c user.email=t@example.org commit -qam change; git gc --quiet; git fsck --full";
    shell(&work, change, limit);
    mount.unmount();
    let mount = volume.mount();
    let work = mount.join("work");
    assert_eq!(shell(&work, "git status --porcelain", limit), "");
    assert_eq!(shell(&work, "git diff --stat HEAD~1 | tail -n 1 | grep -c changed", limit).trim(), "1");
    shell(&work, "git checkout --quiet HEAD~1; git fsck --full", limit);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// A tree with everything that archivers care about.
fn tree(dir: &Path) -> PathBuf {
    let root = dir.join("tree");
    fs::create_dir_all(&root).unwrap();
    for number in 0..400u64 {
        let sub = root.join(format!("d{}", number % 20)).join(format!("s{}", number % 3));
        fs::create_dir_all(&sub).unwrap();
        let length = [0, 1, 100, 4096, 70_000][usize::try_from(number % 5).unwrap()];
        let data = Pattern::of(Owner { run: 70, file: number, version: 1 }).bytes(length);
        fs::write(sub.join(format!("file {number}")), data).unwrap();
    }
    let big = Pattern::of(Owner { run: 70, file: 1000, version: 1 }).bytes(20 << 20);
    fs::write(root.join("big"), big).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    let script = "ln big hard; ln -s big soft; ln -s /nowhere dangling; mkfifo pipe; mkdir empty; chmod 1777 empty;
        touch -d '2001-02-03 04:05:06.123456789' 'd1/s1/file 1'; chmod 0400 'd2/s2/file 2'; chown 1234:4321 'd0/s0/file 0';
        setfattr -n user.note -v hello big; touch -h -d 1999-01-01 soft; touch -d 2010-10-10 d3";
    run_in(&root, script).expect_success();
    root
}

/// Nothing that rsync can see differs: content, type, mode, owner, times, links and attributes.
fn assert_same(source: &Path, copy: &Path) {
    let options = "-aHXn --checksum --delete --itemize-changes";
    let script = format!("rsync {options} '{}/' '{}/'", source.display(), copy.display());
    let differences = run_in(Path::new("/"), &script).expect_success().stdout;
    assert_eq!(differences, "", "{} differs", copy.display());
    run("diff", ["-r", "--no-dereference", "--exclude=pipe", &source.to_string_lossy(), &copy.to_string_lossy()])
        .expect_success();
}

#[test]
fn tar_rsync_and_cp_make_equal_trees() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--enable-xattr", "--skip-dir-mtime", "0"]);
    let source = tree(volume.dir());
    let archive = volume.dir().join("tree.tar");
    run_in(volume.dir(), "tar --xattrs -cf tree.tar tree").expect_success();
    run_in(mount.path(), &format!("tar --xattrs -xpf {}", archive.display())).expect_success();
    run_in(mount.path(), &format!("rsync -aHX --checksum {}/ by-rsync", source.display())).expect_success();
    run_in(mount.path(), &format!("cp -a {} by-cp; cp -a tree within", source.display())).expect_success();
    let copies = ["tree", "by-rsync", "by-cp", "within"];
    for copy in copies {
        assert_same(&source, &mount.join(copy));
    }
    // A second rsync finds nothing to do, and mv within the mount keeps everything.
    let again = format!("rsync -aHX --checksum --itemize-changes {}/ by-rsync", source.display());
    assert_eq!(run_in(mount.path(), &again).expect_success().stdout, "");
    run_in(mount.path(), "mkdir below; mv within below/").expect_success();
    assert_same(&source, &mount.join("below/within"));
    run_in(mount.path(), "tar --xattrs -cf again.tar tree; tar -df again.tar; rm -rf tree by-cp").expect_success();
    mount.unmount();
    let mount = volume.mount();
    assert_same(&source, &mount.join("below/within"));
    assert_same(&source, &mount.join("by-rsync"));
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn make_builds_a_project() {
    let volume = Volume::new();
    let mount = volume.mount();
    let dir = mount.join("project");
    fs::create_dir(&dir).unwrap();
    let count = 30;
    let mut main = String::from("#include <stdio.h>\n");
    for number in 0..count {
        fs::write(dir.join(format!("part{number}.c")), format!("int part{number}(int x) {{ return x + {number}; }}\n"))
            .unwrap();
        writeln!(main, "int part{number}(int);").unwrap();
    }
    main.push_str("int main(void) { int sum = 0;\n");
    for number in 0..count {
        writeln!(main, "  sum = part{number}(sum);").unwrap();
    }
    main.push_str("  printf(\"%d\\n\", sum); return 0; }\n");
    fs::write(dir.join("main.c"), main).unwrap();
    let makefile = "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: libparts.a main.o\n\t$(CC) -o $@ main.o -L. -lparts\n\
        libparts.a: $(filter-out main.o,$(OBJECTS))\n\tar rcs $@ $^\n";
    fs::write(dir.join("Makefile"), makefile).unwrap();
    shell(&dir, "make -j4 && ./program > out", Duration::from_secs(200));
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap().trim(), (0..count).sum::<i32>().to_string());
    // Times are exact enough for make: nothing to do, then exactly what was touched.
    assert!(shell(&dir, "make", Duration::from_secs(60)).contains("up to date"));
    let rebuilt = shell(&dir, "touch part3.c; make", Duration::from_secs(60));
    assert_eq!(rebuilt.matches("-c ").count(), 1, "{rebuilt}");
    mount.unmount();
}

#[test]
fn cargo_builds_and_tests_a_crate() {
    let volume = Volume::new();
    let mount = volume.mount();
    let dir = mount.join("crate");
    fs::create_dir_all(dir.join("src")).unwrap();
    let manifest = "[package]\nname = \"inside\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    let code = "pub fn double(x: u32) -> u32 { x * 2 }\n#[test]\nfn doubles() { assert_eq!(double(21), 42); }\n";
    fs::write(dir.join("src/lib.rs"), code).unwrap();
    fs::write(dir.join("src/main.rs"), "fn main() { println!(\"{}\", inside::double(21)); }\n").unwrap();
    let mut command = Command::new("cargo");
    // Its own target directory, whatever this run uses.
    command.args(["test", "--offline"]).current_dir(&dir).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    let tested = run_within(command, Duration::from_secs(300)).expect_success();
    assert!(tested.stdout.contains("1 passed"), "{tested}");
    let mut command = Command::new("cargo");
    command
        .args(["run", "--offline", "--quiet"])
        .current_dir(&dir)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    assert_eq!(run_within(command, Duration::from_secs(300)).expect_success().stdout, "42\n");
    mount.unmount();
}

#[test]
fn sqlite_keeps_its_transactions() {
    let volume = Volume::new();
    let mount = volume.mount();
    for mode in ["wal", "delete"] {
        let path = mount.join(format!("{mode}.db"));
        let database = rusqlite::Connection::open(&path).unwrap();
        let answer: String = database.query_row(&format!("pragma journal_mode={mode}"), [], |row| row.get(0)).unwrap();
        assert_eq!(answer, mode);
        database.execute_batch("create table t (id integer primary key, body blob)").unwrap();
        // A second connection reads while the first one writes.
        let reader = rusqlite::Connection::open(&path).unwrap();
        for number in 0..300 {
            let body = Pattern::of(Owner { run: 80, file: number, version: 1 }).bytes(1000);
            let transaction = database.unchecked_transaction().unwrap();
            transaction
                .execute("insert into t values (?1, ?2)", rusqlite::params![number.cast_signed(), body])
                .unwrap();
            transaction.execute("update t set body = body where id = ?1 / 2", [number.cast_signed()]).unwrap();
            transaction.commit().unwrap();
            if number % 50 == 0 {
                let count: i64 = reader.query_row("select count(*) from t", [], |row| row.get(0)).unwrap();
                assert_eq!(count, number.cast_signed() + 1);
            }
        }
        drop((database, reader));
    }
    mount.unmount();
    let mount = volume.mount();
    for mode in ["wal", "delete"] {
        let path = mount.join(format!("{mode}.db"));
        let script = format!("sqlite3 '{}' 'pragma integrity_check; select count(*) from t'", path.display());
        assert_eq!(run_in(mount.path(), &script).expect_success().stdout, "ok\n300\n");
    }
    mount.unmount();
}

/// An editor's way to save: a temporary file beside, fsync, rename over, and a backup by hard link.
#[test]
fn editors_save_by_rename() {
    let volume = Volume::new();
    let mount = volume.mount();
    let script = "echo 0 > text; for i in $(seq 100); do ln -f text text~; echo $i > .text.swp; sync .text.swp; mv .text.swp text;
        test $(cat text) = $i; test $(cat text~) = $((i - 1)); done; sed -i s/100/done/ text; cat text";
    assert_eq!(run_in(mount.path(), script).expect_success().stdout, "done\n");
    mount.unmount();
}
