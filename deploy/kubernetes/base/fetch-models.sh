#!/bin/sh
# Fills the model store with the files that SHA256SUMS lists, fetched from MODEL_STORE_URI, and ends with 1 unless each
# is what the list says. Nothing that was not checked ever bears an archive's name.
set -eu

sums=${SUMS_FILE:-/etc/torchserve-neuron/models/SHA256SUMS}
store=${STORE_FOLDER:-/models}
uri=${MODEL_STORE_URI:?set MODEL_STORE_URI to where the archives lie: s3://BUCKET/FOLDER}

refuse() {
    echo "fetch-models: $1" >&2
    exit 1
}

holds() { # FILE DIGEST: whether the file is there and is what the digest says
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d ' ' -f 1)" = "$2" ]
}

check_line() { # DIGEST NAME
    case $1 in
    *[!0-9a-f]*) refuse "$sums: '$1' is not a SHA-256 in lower case; expected lines of 'sha256sum *.mar'" ;;
    esac
    [ "${#1}" -eq 64 ] || refuse "$sums: '$1' has ${#1} digits, a SHA-256 has 64; expected lines of 'sha256sum *.mar'"
    case $2 in
    '' | .* | -* | *[!A-Za-z0-9._-]*) refuse "$sums: '$2' is no plain file name; list names without folders" ;;
    esac
}

fetch() { # DIGEST NAME
    if holds "$store/$2" "$1"; then
        echo "fetch-models: $2 is there"
        return
    fi
    aws s3 cp --only-show-errors "${uri%/}/$2" "$store/.$2.partial" ||
        refuse "${uri%/}/$2 could not be fetched; see the line above, and whether the service account may read it"
    if ! holds "$store/.$2.partial" "$1"; then
        found=$(sha256sum <"$store/.$2.partial" | cut -d ' ' -f 1)
        rm "$store/.$2.partial"
        refuse "$2 from $uri is not the listed file: SHA-256 $found, expected $1; upload the listed one, or list this one"
    fi
    mv "$store/.$2.partial" "$store/$2"
    echo "fetch-models: $2 fetched, SHA-256 as listed"
}

archives=0
while read -r digest name || [ -n "$digest" ]; do
    case $digest in
    '' | '#'*) continue ;;
    esac
    name=${name#\*} # sha256sum marks files read as binary
    check_line "$digest" "$name"
    fetch "$digest" "$name"
    case $name in
    *.mar) archives=$((archives + 1)) ;;
    esac
done <"$sums"
[ "$archives" -gt 0 ] || refuse "$sums lists no archive (.mar); put the lines of 'sha256sum *.mar' there"
