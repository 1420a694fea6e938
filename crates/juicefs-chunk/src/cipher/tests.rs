use aes_gcm::{Aes256Gcm, KeyInit, aead::Aead};
use juicefs_core::buffer::segments_len;
use proptest::prelude::*;

use super::*;

const PASSPHRASE: &str = "correct-horse";

/// All of one RSA key, protected in every way that is known here.
const PROTECTED: [(&str, &str); 10] = [
    ("DEK-Info AES-128", include_str!("../../tests/keys/dek-aes128.pem")),
    ("DEK-Info AES-192", include_str!("../../tests/keys/dek-aes192.pem")),
    ("DEK-Info AES-256", include_str!("../../tests/keys/dek-aes256.pem")),
    ("DEK-Info 3DES", include_str!("../../tests/keys/dek-des3.pem")),
    ("DEK-Info DES", include_str!("../../tests/keys/dek-des.pem")),
    ("PBES2 AES-256", include_str!("../../tests/keys/pbes2-aes256.pem")),
    ("PBES2 AES-128 with SHA-1", include_str!("../../tests/keys/pbes2-aes128-sha1.pem")),
    ("PBES2 3DES", include_str!("../../tests/keys/pbes2-des3.pem")),
    ("PBES2 scrypt", include_str!("../../tests/keys/pbes2-scrypt.pem")),
    ("PBES2 SM4", include_str!("../../tests/keys/pbes2-sm4.pem")),
];
/// All of one SM2 key, protected as other programs do it.
const PROTECTED_SM2: [(&str, &str); 6] = [
    ("PBES2 AES-256", include_str!("../../tests/keys/sm2-pbes2-aes256.pem")),
    ("PBES2 SM4", include_str!("../../tests/keys/sm2-pbes2-sm4.pem")),
    ("PBES2 SM4 with SHA-1", include_str!("../../tests/keys/sm2-pbes2-sm4-sha1.pem")),
    ("PBES2 SM4 with SM3", include_str!("../../tests/keys/sm2-pbes2-sm4-sm3.pem")),
    ("PBES2 AES-256 with SM3", include_str!("../../tests/keys/sm2-pbes2-aes256-sm3.pem")),
    ("PBES2 of GM/T 0091", include_str!("../../tests/keys/sm2-pbes-gmt.pem")),
];
const SM2: &str = include_str!("../../tests/keys/sm2.pem");
const SM2_SEC1: &str = include_str!("../../tests/keys/sm2-sec1.pem");
const ALGORITHMS: [&str; 3] = ["aes256gcm-rsa", "chacha20-rsa", "sm4gcm"];
const PKCS1: &str = include_str!("../../tests/keys/pkcs1.pem");
const PKCS8: &str = include_str!("../../tests/keys/pkcs8.pem");

fn format(key: &str, algorithm: &str) -> Format {
    Format { encrypt_key: key.into(), encrypt_algo: algorithm.into(), ..Format::default() }
}

/// A cipher of this algorithm with the RSA key of the tests.
pub(crate) fn cipher(algorithm: &str) -> Arc<Cipher> {
    Cipher::of_volume(&format(PKCS1, algorithm), None).expect("a good key").expect("encrypted")
}

/// The same with the SM2 key of the tests.
pub(crate) fn sm2_cipher(algorithm: &str) -> Arc<Cipher> {
    Cipher::of_volume(&format(SM2, algorithm), None).expect("a good key").expect("encrypted")
}

/// Every algorithm with either kind of key.
fn all() -> Vec<Arc<Cipher>> {
    ALGORITHMS.into_iter().flat_map(|algorithm| [cipher(algorithm), sm2_cipher(algorithm)]).collect()
}

fn buffer(data: &[u8]) -> PoolBuf {
    let mut buffer = PoolBuf::with_capacity(data.len());
    buffer.append(data);
    buffer
}

fn sealed(cipher: &Cipher, plain: &[u8]) -> Vec<u8> {
    let body = cipher.seal(buffer(plain)).expect("seals");
    let most = plain.len() + cipher.overhead_bytes();
    match cipher.key {
        VolumeKey::Rsa(_) => assert_eq!(segments_len(&body), most),
        VolumeKey::Sm2(_) => assert!((most - 12..=most).contains(&segments_len(&body)), "{}", segments_len(&body)),
    }
    body.concat()
}

/// Where the parts of a body after its lengths are: wrapped key, nonce, the content and its tag.
fn parts(body: &[u8]) -> [std::ops::Range<usize>; 3] {
    let nonce = 3 + u16::from_be_bytes([body[0], body[1]]) as usize;
    [3..nonce, nonce..nonce + 12, nonce + 12..body.len()]
}

fn refusal(pem: &str, passphrase: Option<&str>) -> KeyError {
    VolumeKey::from_pem(pem.as_bytes(), passphrase.map(str::as_bytes)).expect_err("refused")
}

#[test]
fn one_key_in_every_form_opens_what_it_sealed() {
    let body = sealed(&cipher(""), b"plain text");
    let plain =
        [("PKCS#1", PKCS1, None), ("PKCS#8", PKCS8, None), ("ignored", PKCS1, Some("x")), ("", PKCS8, Some(""))];
    let protected = PROTECTED.map(|(name, pem)| (name, pem, Some(PASSPHRASE)));
    for (name, pem, passphrase) in plain.into_iter().chain(protected) {
        let cipher = Cipher::of_volume(&format(pem, "aes256gcm-rsa"), passphrase.map(str::as_bytes));
        let cipher = cipher.unwrap_or_else(|e| panic!("{name}: {e}")).expect("encrypted");
        assert_eq!(&cipher.open(&body).unwrap_or_else(|e| panic!("{name}: {e}"))[..], b"plain text", "{name}");
    }
}

#[test]
fn one_sm2_key_in_every_form_opens_what_it_sealed() {
    let body = sealed(&sm2_cipher("sm4gcm"), b"plain text");
    let plain = [("PKCS#8", SM2, None), ("ignored", SM2, Some("x")), ("", SM2, Some(""))];
    let protected = PROTECTED_SM2.map(|(name, pem)| (name, pem, Some(PASSPHRASE)));
    for (name, pem, passphrase) in plain.into_iter().chain(protected) {
        let cipher = Cipher::of_volume(&format(pem, "sm4gcm"), passphrase.map(str::as_bytes));
        let cipher = cipher.unwrap_or_else(|e| panic!("{name}: {e}")).expect("encrypted");
        assert_eq!(&cipher.open(&body).unwrap_or_else(|e| panic!("{name}: {e}"))[..], b"plain text", "{name}");
    }
}

/// As files come from other systems and tools.
#[test]
fn what_is_around_the_key_does_not_matter() {
    let body = sealed(&cipher(""), b"plain text");
    for pem in [PKCS1, PKCS8, PROTECTED[2].1, PROTECTED[5].1] {
        let windows = pem.replace('\n', "\r\n");
        let with_text =
            format!("Bag Attributes\n    friendlyName: jfs\nKey Attributes: <No Attributes>\n{pem}\n\n{PKCS1}");
        for (form, text) in [("CRLF", windows), ("text", with_text), ("end", pem.trim_end().to_owned())] {
            let cipher = Cipher::of_volume(&format(&text, ""), Some(PASSPHRASE.as_bytes()));
            let cipher = cipher.unwrap_or_else(|e| panic!("{form}: {e}: {text}")).expect("encrypted");
            assert_eq!(&cipher.open(&body).expect("opens")[..], b"plain text", "{form}");
        }
    }
}

#[test]
fn passphrases_are_asked_for_and_checked() {
    for (name, pem) in PROTECTED.into_iter().chain(PROTECTED_SM2) {
        assert_eq!(refusal(pem, None), KeyError::PassphraseMissing, "{name}");
        assert_eq!(refusal(pem, Some("")), KeyError::PassphraseMissing, "{name}");
        // Some of many wrong passphrases decrypt to what looks padded.
        let wrong = match name {
            _ if name.starts_with("DEK") => 600,
            _ if name.contains("SM") => 300,
            _ => 1,
        };
        for n in 0..wrong {
            assert_eq!(refusal(pem, Some(&format!("wrong-{n}"))), KeyError::PassphraseWrong, "{name} {n}");
        }
    }
}

#[test]
fn what_is_no_key_of_a_volume_is_named() {
    let kind = |pem: &str| match refusal(pem, Some(PASSPHRASE)) {
        KeyError::Kind(what) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(include_str!("../../tests/keys/ec.pem")), "a block \"EC PRIVATE KEY\"");
    assert_eq!(kind(include_str!("../../tests/keys/public.pem")), "a block \"PUBLIC KEY\"");
    let other_curve = kind(include_str!("../../tests/keys/ec-pkcs8.pem"));
    assert!(other_curve.contains("1.2.840.10045.2.1 with the curve 1.2.840.10045.3.1.7"), "{other_curve}");
    assert_eq!(refusal(SM2_SEC1, None), KeyError::Sec1);
    assert_eq!(refusal(include_str!("../../tests/keys/small.pem"), None), KeyError::Size(1024));
    assert_eq!(refusal("no key at all", None), KeyError::NotPem);
    assert_eq!(refusal("", None), KeyError::NotPem);
    assert_eq!(refusal("removed", None), KeyError::Removed);
    let foreign = include_str!("../../tests/keys/pbes1-des3.pem");
    assert!(matches!(refusal(foreign, Some(PASSPHRASE)), KeyError::Protection(_)));
    let cut = PKCS1.replace("MII", "MIJ");
    assert!(matches!(refusal(&cut, None), KeyError::Damaged(_)));
    let odd = PROTECTED[0].1.replace("AES-128-CBC", "RC2-CBC");
    assert_eq!(refusal(&odd, Some(PASSPHRASE)), KeyError::Protection("RC2-CBC".into()));
    for (from, to) in [("AES-128-CBC,", "AES-128-CBC"), ("AES-128-CBC,", "AES-128-CBC,0"), ("DEK-Info", "DEK-Other")] {
        assert!(matches!(refusal(&PROTECTED[0].1.replace(from, to), Some("x")), KeyError::Damaged(_)), "{from} {to}");
    }
}

#[test]
fn unknown_algorithms_are_refused_and_none_is_none() {
    for name in ["sm4", "AES256GCM-RSA", "rot13"] {
        let error = Cipher::of_volume(&format(PKCS1, name), None).expect_err("unknown");
        assert_eq!(error, CipherError::Algorithm(name.to_owned()));
    }
    assert!(Cipher::of_volume(&format("", "rot13"), None).expect("not encrypted").is_none());
}

#[test]
fn nothing_secret_is_shown() {
    let shown = format!("{:?}", cipher("chacha20-rsa"));
    assert_eq!(shown, "Cipher { key: Rsa(RsaKey(2048 bits)), algorithm: ChaCha20Poly1305 }");
    assert_eq!(format!("{:?}", sm2_cipher("sm4gcm")), "Cipher { key: Sm2(Sm2Key), algorithm: Sm4Gcm }");
}

#[test]
fn every_body_has_a_key_of_its_own() {
    for cipher in all() {
        let (a, b) = (sealed(&cipher, &[7; 100]), sealed(&cipher, &[7; 100]));
        // Wrapped key, nonce, ciphertext and tag all differ.
        for (of_a, of_b) in parts(&a).into_iter().zip(parts(&b)) {
            assert_ne!(a[of_a], b[of_b], "bytes that must be fresh");
        }
        assert_eq!(a[2], 12, "the layout of the format");
        match cipher.key {
            VolumeKey::Rsa(_) => assert_eq!(a[..2], [1, 0]),
            VolumeKey::Sm2(_) => assert_eq!((a[0], a[3]), (0, 0x30), "a sequence in DER"),
        }
    }
}

/// Flips one bit of every byte, and cuts and extends the body: all is seen, and nothing of the content is returned.
#[test]
fn no_damage_passes() {
    for cipher in all() {
        let whole = sealed(&cipher, b"some bytes of a block");
        for at in 0..whole.len() {
            let mut body = whole.clone();
            body[at] ^= 1 << (at % 8);
            assert!(cipher.open(&body).is_err(), "a flipped bit of byte {at} passes");
            assert!(cipher.open(&whole[..at]).is_err(), "the first {at} bytes pass");
        }
        for (at, bit) in (0..3).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut body = whole.clone();
            body[at] ^= 1 << bit;
            assert!(cipher.open(&body).is_err(), "bit {bit} of length byte {at}");
        }
        assert!(cipher.open(&[whole.as_slice(), &[0]].concat()).is_err());
        assert_eq!(&cipher.open(&whole).expect("sound")[..], b"some bytes of a block");
    }
    let ciphers = all();
    for (a, b) in (0..ciphers.len()).flat_map(|a| (0..ciphers.len()).map(move |b| (a, b))) {
        let opened = ciphers[a].open(&sealed(&ciphers[b], b"x"));
        assert_eq!(opened.is_ok(), a == b, "{:?} opens what is of {:?}", ciphers[a], ciphers[b]);
    }
}

/// The same by another implementation, with the data key that ours unwraps.
#[test]
fn another_implementation_agrees() {
    let cipher = cipher("aes256gcm-rsa");
    for len in [0, 1, 15, 16, 17, 100_000] {
        let plain: Vec<u8> = (0..len).map(|n| (n * 7 % 251) as u8).collect();
        let body = sealed(&cipher, &plain);
        let data_key = cipher.key.unwrap(&body[3..259]).expect("unwraps");
        let other = Aes256Gcm::new_from_slice(&data_key).expect("32 bytes");
        let nonce: [u8; 12] = body[259..271].try_into().expect("12 bytes");
        assert_eq!(other.decrypt(&nonce.into(), &body[271..]).expect("authentic"), plain);
        let theirs = other.encrypt(&nonce.into(), &plain[..]).expect("sealed");
        let body = [&body[..271], &theirs].concat();
        assert_eq!(cipher.open(&body).expect("opens")[..], plain);
    }
}

/// The vector of RFC 8998, whose tag also covers what ours have nothing of.
#[test]
fn sm4_in_counter_mode_is_that_of_the_standard() {
    let key = hex::decode("0123456789abcdeffedcba9876543210").expect("hex");
    let nonce = [0, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0xab, 0xcd];
    let mut body = [0xaa_u8, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0xee, 0xaa].map(|byte| [byte; 8]).concat();
    let plain = body.clone();
    let key = DataKey::new(Algorithm::Sm4Gcm, &key).expect("16 bytes");
    let tag = key.seal(nonce, &mut body).expect("seals");
    let want = "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735\
        d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d";
    assert_eq!(hex::encode(&body), want);
    let mut back = [0; 64];
    key.open(nonce, &body, tag, &mut back).expect("opens");
    assert_eq!(back[..], plain);
    for len in [0, 15, 17, 32] {
        assert!(DataKey::new(Algorithm::Sm4Gcm, &[1; 32][..len]).is_err(), "a key of {len} bytes");
    }
}

/// A coordinate with a whole byte of zeros before it makes the wrapped key shorter than it mostly is, which happens to one in
/// 256; so many tries never miss it.
#[test]
fn wrapped_keys_of_sm2_have_several_lengths() {
    let key = &sm2_cipher("aes256gcm-rsa").key;
    assert_eq!((key.wrapped_bytes(32), key.wrapped_bytes(16)), (141, 124));
    assert!(key.may_wrap_as(32, 141) && !key.may_wrap_as(32, 142));
    let short = (0..20_000).find(|n| {
        let wrapped = key.wrap(&[*n as u8; 32]).expect("wraps");
        assert!(key.may_wrap_as(32, wrapped.len()), "{} bytes", wrapped.len());
        assert_eq!(key.unwrap(&wrapped).expect("unwraps"), [*n as u8; 32]);
        wrapped.len() < 139
    });
    assert!(short.is_some(), "no short one");
}

/// Forged, or of a client with errors: an error for each of them, never a panic.
#[test]
fn wrapped_keys_that_are_no_points_are_refused() {
    let key = &sm2_cipher("aes256gcm-rsa").key;
    let with = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    let wrapped = |x: &[u8], y: &[u8], digest: &[u8], text: &[u8]| {
        let parts = [with(2, x), with(2, y), with(4, digest), with(4, text)].concat();
        if parts.len() < 128 { with(0x30, &parts) } else { [&[0x30, 0x81, parts.len() as u8], &parts[..]].concat() }
    };
    let beyond_the_field = [&[0][..], &[0xff; 32]].concat();
    let too_long = [1; 33];
    for (x, y) in
        [(&[0][..], &[0][..]), (&beyond_the_field, &[1]), (&[1], &beyond_the_field), (&too_long, &[1]), (&[], &[])]
    {
        for (digest, text) in [(32, 32), (31, 32), (33, 32), (0, 0), (32, 0)] {
            let refused = key.unwrap(&wrapped(x, y, &vec![7; digest], &vec![7; text]));
            assert!(refused.is_err(), "{x:?} {y:?} {digest} {text}");
        }
    }
    for bytes in [&[][..], &[0x30], &[0x30, 0], &[0x04; 97], &[0x04; 141], &[0xff; 141]] {
        assert!(key.unwrap(bytes).is_err(), "{bytes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn bodies_come_back(data in prop::collection::vec(any::<u8>(), 0..70_000)) {
        for cipher in all() {
            let opened = cipher.open(&sealed(&cipher, &data)).expect("opens");
            prop_assert!(opened[..] == data[..]);
        }
    }
}
