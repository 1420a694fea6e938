use proptest::prelude::*;

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex"))
        .collect()
}

#[test]
fn vectors_of_the_format() {
    let at = Timestamp::from_secs(1_700_000_000);
    let root = Attr {
        kind: FileType::Directory,
        mode: 0o777,
        length: 4096,
        nlink: 2,
        parent: Ino::ROOT,
        atime: at,
        mtime: at,
        ctime: at,
        ..Attr::default()
    };
    let bytes = unhex(
        "0021ff 00000000 00000000 000000006553f100 00000000 000000006553f100 00000000 000000006553f100 00000000 \
         00000002 0000000000001000 00000000 0000000000000001 00",
    );
    assert_eq!(bytes.len(), 72);
    assert_eq!(encode_attr(&root), bytes);
    assert_eq!(decode_attr(&bytes).expect("vector"), root);

    let with = |nanos| Timestamp { nanos, ..at };
    let file = Attr {
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        length: 123,
        nlink: 1,
        parent: Ino::ROOT,
        atime: with(5),
        mtime: with(6),
        ctime: with(7),
        access_acl: 3,
        tier: 2,
        ..Attr::default()
    };
    let bytes = unhex(
        "0011a4 000003e8 000003e8 000000006553f100 00000005 000000006553f100 00000006 000000006553f100 00000007 \
         00000001 000000000000007b 00000000 0000000000000001 00000003 00000000 02 00",
    );
    assert_eq!(bytes.len(), 81);
    assert_eq!(encode_attr(&file), bytes);
    assert_eq!(decode_attr(&bytes).expect("vector"), file);

    let edge = Edge { ino: Ino(5), kind: FileType::Directory };
    assert_eq!(encode_edge(edge), unhex("02 0000000000000005"));
    assert_eq!(decode_edge(&unhex("02 0000000000000005")).expect("vector"), edge);
}

#[test]
fn records_of_old_clients_are_read() {
    let full = encode_attr(&Attr { parent: Ino(9), mode: 0o644, ..Attr::default() });
    for short in [63, 64] {
        assert_eq!(decode_attr(&full[..short]).expect("without parent").parent, Ino(0));
    }
    assert_eq!(decode_attr(&full[..71]).expect("with parent").parent, Ino(9));
}

#[test]
fn damage_is_an_error() {
    let full = encode_attr(&Attr::default());
    assert!(decode_attr(&full[..62]).is_err());
    let mut unknown = full;
    unknown[1] = 0xF0;
    assert!(decode_attr(&unknown).is_err());
    assert!(decode_edge(&[1; 8]).is_err() && decode_edge(&[1; 10]).is_err() && decode_edge(&[9; 9]).is_err());
    assert!(decode_slice_keys(&[0; 13]).is_err());
    assert!(decode_plocks(&[0; 23]).is_err() && decode_plocks(&[0; 25]).is_err());
}

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

prop_compose! {
    fn attr()(
        flags in any::<u8>(), kind in 1..=7u8, mode in 0..=0o7777u16, ids in any::<[u32; 6]>(),
        times in [time(), time(), time()], length in any::<u64>(), parent in any::<u64>(),
        tier in any::<u8>(), acls in any::<bool>(),
    ) -> Attr {
        let [uid, gid, nlink, rdev, access, default] = ids;
        let [atime, mtime, ctime] = times;
        let (access_acl, default_acl) = if acls { (access, default) } else { (0, 0) };
        Attr {
            flags, kind: FileType::from_u8(kind).expect("in range"), mode, uid, gid, atime, mtime, ctime, nlink, length,
            rdev, parent: Ino(parent), access_acl, default_acl, tier,
        }
    }
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(attr in attr()) {
        let bytes = encode_attr(&attr);
        prop_assert!([72, 73, 80, 81].contains(&bytes.len()) && bytes.last() == Some(&0));
        prop_assert_eq!(decode_attr(&bytes).expect("own bytes"), attr);
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode_attr(&bytes);
        let _ = decode_edge(&bytes);
        let _ = decode_slice_keys(&bytes);
        let _ = decode_plocks(&bytes);
    }

    #[test]
    fn slice_keys_survive(raw in prop::collection::vec(any::<(u64, u32)>(), 0..20)) {
        let keys: Vec<_> = raw.into_iter().map(|(id, size)| SliceKey { id: SliceId(id), size }).collect();
        prop_assert_eq!(decode_slice_keys(&encode_slice_keys(&keys)).expect("own bytes"), keys);
    }

    #[test]
    fn locked_ranges_survive(raw in prop::collection::vec(any::<(u32, u32, u64, u64)>(), 0..20)) {
        let held: Vec<_> = raw
            .into_iter()
            .map(|(kind, pid, start, end)| Plock { kind, pid, range: LockRange { start, end } })
            .collect();
        prop_assert_eq!(decode_plocks(&encode_plocks(&held)).expect("own bytes"), held);
    }
}

/// As JuiceFS (Go) 1.4.1 stored them (golden volume `redis-killed`): to write 0 to 9, to read 200 to 299, to write from 1000
/// on.
#[test]
fn locked_ranges_are_those_of_the_format() {
    let stored: [u8; 72] = [
        0, 0, 0, 1, 0, 0, 0x62, 0xC2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, //
        0, 0, 0, 0, 0, 0, 0x62, 0xC2, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 1, 0x2B, //
        0, 0, 0, 1, 0, 0, 0x62, 0xC2, 0, 0, 0, 0, 0, 0, 3, 0xE8, 0x7F, 255, 255, 255, 255, 255, 255, 255,
    ];
    let held = decode_plocks(&stored).expect("decodes");
    let record = |kind, start, end| Plock { kind, pid: 25282, range: LockRange { start, end } };
    assert_eq!(held, [record(1, 0, 9), record(0, 200, 299), record(1, 1000, LockRange::LAST)]);
    assert_eq!(encode_plocks(&held), stored);
}
