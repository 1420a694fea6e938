//! Keeps passwords out of logs and out of the list of processes.

use std::fs;

/// The address with the password of its authority replaced by `****`.
pub(crate) fn mask_url(url: &str) -> String {
    // Without a scheme it is an address of Redis.
    let (scheme, rest) = url.find("://").map_or(("", url), |at| url.split_at(at + 3));
    let Some(at) = rest.rfind('@') else { return url.to_owned() };
    match rest[..at].split_once(':') {
        Some((name, password)) if !password.is_empty() => format!("{scheme}{name}:****{}", &rest[at..]),
        _ => url.to_owned(),
    }
}

/// Masks passwords in URLs where others see the command line of this process. It is to be called when the arguments
/// have been read and while there is one thread. Without `/proc` nothing happens.
pub(crate) fn mask_command_line() {
    let Some((start, end)) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(argument_area) else {
        return;
    };
    // SAFETY: this is where the kernel put the arguments, on the stack above all frames, and says that they are there
    // still; it is mapped for reading and writing. The standard library hands out copies, and there is no other thread
    // that might read the originals meanwhile.
    let area =
        unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u8>(start), end - start) };
    mask_arguments(area);
}

/// Where the arguments begin and end. These are fields 48 and 49, counted after the name, which may hold blanks and
/// brackets.
fn argument_area(stat: &str) -> Option<(usize, usize)> {
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace().skip(45);
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (start != 0 && start < end).then_some((start, end))
}

/// Masks arguments that end with a zero byte each. All begin where they did, and what became shorter is filled with zeroes.
fn mask_arguments(area: &mut [u8]) {
    for argument in area.split_mut(|byte| *byte == 0) {
        let Some(masked) = std::str::from_utf8(argument).ok().filter(|text| text.contains('@')).map(mask_url) else {
            continue;
        };
        // A password of less than four characters is no reason to leave it.
        let masked = if masked.len() > argument.len() { masked.replacen("****", "*", 1) } else { masked };
        if masked.len() <= argument.len() {
            argument[..masked.len()].copy_from_slice(masked.as_bytes());
            argument[masked.len()..].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_passwords_go() {
        let cases = [
            ("redis://:secret@host/1", "redis://:****@host/1"),
            ("mysql://u:p@ss:w@(host:3306)/db", "mysql://u:****@(host:3306)/db"),
            ("redis://u:@host/1", "redis://u:@host/1"),
            ("postgres://u@host/db", "postgres://u@host/db"),
            ("sqlite3://a.db", "sqlite3://a.db"),
            ("host/1", "host/1"),
            (":secret@host/1", ":****@host/1"),
            ("user@host:6379/1", "user@host:6379/1"),
        ];
        for (url, masked) in cases {
            assert_eq!(mask_url(url), masked);
        }
    }
    #[test]
    fn arguments_are_masked_where_they_stand() {
        let mut area = b"juicefs\0mount\0redis://:secret@host/1\0/mnt\0".to_vec();
        mask_arguments(&mut area);
        assert_eq!(area, b"juicefs\0mount\0redis://:****@host/1\0\0\0/mnt\0");
        let mut area = b"status\0redis://:ab@host/1\0".to_vec();
        mask_arguments(&mut area);
        assert_eq!(area, b"status\0redis://:*@host/1\0\0");
    }

    #[test]
    fn the_area_is_found_behind_any_name() {
        let numbers: Vec<String> = (4..=52).map(|field| (field * 1000).to_string()).collect();
        let stat = format!("4711 (a) name)) S {}", numbers.join(" "));
        assert_eq!(argument_area(&stat), Some((48_000, 49_000)));
        assert_eq!(argument_area("1 (x) S 1"), None);
    }
}
