use aes_gcm::{Aes256Gcm, KeyInit, aead::Aead};
use juicefs_core::buffer::segments_len;
use proptest::prelude::*;

use super::*;

const PASSPHRASE: &str = "correct-horse";

/// All of one RSA key, protected in every way that is known here.
const PROTECTED: [(&str, &str); 9] = [
    ("DEK-Info AES-128", include_str!("../../tests/keys/dek-aes128.pem")),
    ("DEK-Info AES-192", include_str!("../../tests/keys/dek-aes192.pem")),
    ("DEK-Info AES-256", include_str!("../../tests/keys/dek-aes256.pem")),
    ("DEK-Info 3DES", include_str!("../../tests/keys/dek-des3.pem")),
    ("DEK-Info DES", include_str!("../../tests/keys/dek-des.pem")),
    ("PBES2 AES-256", include_str!("../../tests/keys/pbes2-aes256.pem")),
    ("PBES2 AES-128 with SHA-1", include_str!("../../tests/keys/pbes2-aes128-sha1.pem")),
    ("PBES2 3DES", include_str!("../../tests/keys/pbes2-des3.pem")),
    ("PBES2 scrypt", include_str!("../../tests/keys/pbes2-scrypt.pem")),
];
const PKCS1: &str = include_str!("../../tests/keys/pkcs1.pem");
const PKCS8: &str = include_str!("../../tests/keys/pkcs8.pem");

fn format(key: &str, algorithm: &str) -> Format {
    Format { encrypt_key: key.into(), encrypt_algo: algorithm.into(), ..Format::default() }
}

/// A cipher of this algorithm with the key of the tests.
pub(crate) fn cipher(algorithm: &str) -> Arc<Cipher> {
    Cipher::of_volume(&format(PKCS1, algorithm), None).expect("a good key").expect("encrypted")
}

fn both() -> [Arc<Cipher>; 2] {
    [cipher("aes256gcm-rsa"), cipher("chacha20-rsa")]
}

fn buffer(data: &[u8]) -> PoolBuf {
    let mut buffer = PoolBuf::with_capacity(data.len());
    buffer.append(data);
    buffer
}

fn sealed(cipher: &Cipher, plain: &[u8]) -> Vec<u8> {
    let body = cipher.seal(buffer(plain)).expect("seals");
    assert_eq!(segments_len(&body), plain.len() + cipher.overhead_bytes());
    body.concat()
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
    for (name, pem) in PROTECTED {
        assert_eq!(refusal(pem, None), KeyError::PassphraseMissing, "{name}");
        assert_eq!(refusal(pem, Some("")), KeyError::PassphraseMissing, "{name}");
        // Some of many wrong passphrases decrypt to what looks padded.
        let wrong = if name.starts_with("DEK") { 600 } else { 1 };
        for n in 0..wrong {
            assert_eq!(refusal(pem, Some(&format!("wrong-{n}"))), KeyError::PassphraseWrong, "{name} {n}");
        }
    }
}

#[test]
fn what_is_no_rsa_key_is_named() {
    let not_rsa = |pem: &str| match refusal(pem, Some(PASSPHRASE)) {
        KeyError::NotRsa(what) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(not_rsa(include_str!("../../tests/keys/ec.pem")), "a block \"EC PRIVATE KEY\"");
    assert_eq!(not_rsa(include_str!("../../tests/keys/public.pem")), "a block \"PUBLIC KEY\"");
    assert!(not_rsa(include_str!("../../tests/keys/ec-pkcs8.pem")).contains("1.2.840.10045.2.1"));
    assert_eq!(refusal(include_str!("../../tests/keys/small.pem"), None), KeyError::Size(1024));
    assert_eq!(refusal("no key at all", None), KeyError::NotPem);
    assert_eq!(refusal("", None), KeyError::NotPem);
    assert_eq!(refusal("removed", None), KeyError::Removed);
    let foreign = [include_str!("../../tests/keys/pbes1-des3.pem"), include_str!("../../tests/keys/pbes2-sm4.pem")];
    for pem in foreign {
        assert!(matches!(refusal(pem, Some(PASSPHRASE)), KeyError::Protection(_)), "{pem}");
    }
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
    for name in ["sm4gcm", "AES256GCM-RSA", "rot13"] {
        let error = Cipher::of_volume(&format(PKCS1, name), None).expect_err("unknown");
        assert_eq!(error, CipherError::Algorithm(name.to_owned()));
    }
    assert!(Cipher::of_volume(&format("", "rot13"), None).expect("not encrypted").is_none());
}

#[test]
fn nothing_secret_is_shown() {
    let shown = format!("{:?}", cipher("chacha20-rsa"));
    assert!(shown.contains("VolumeKey(2048 bits)") && shown.contains("CHACHA20"), "{shown}");
}

#[test]
fn every_body_has_a_key_of_its_own() {
    for cipher in both() {
        let (a, b) = (sealed(&cipher, &[7; 100]), sealed(&cipher, &[7; 100]));
        // Wrapped key, nonce, ciphertext and tag all differ.
        for part in [3..259, 259..271, 271..371, 371..387] {
            assert_ne!(a[part.clone()], b[part], "bytes that must be fresh");
        }
        assert_eq!(a[..3], [1, 0, 12], "the layout of the format");
    }
}

/// Flips one bit of every byte, and cuts and extends the body: all is seen, and nothing of the content is returned.
#[test]
fn no_damage_passes() {
    for cipher in both() {
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
    let [aes, chacha] = both();
    assert!(chacha.open(&sealed(&aes, b"x")).is_err(), "the other algorithm");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn bodies_come_back(data in prop::collection::vec(any::<u8>(), 0..70_000)) {
        for cipher in both() {
            let opened = cipher.open(&sealed(&cipher, &data)).expect("opens");
            prop_assert!(opened[..] == data[..]);
        }
    }
}
