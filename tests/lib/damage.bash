# SPDX-License-Identifier: BSD-3-Clause
# One wrong value in an image, and what the server makes of it.  The file that
# loads this defines
# format                the plugin; the image is disk.$format
# make_disk [WORDS...]  makes it, and disk.$format.raw, what it must read as
# image_file            patch WORDS: vdi_file or vmdk_file
# piece                 bytes: what is lost is counted in these
# shellcheck shell=bash disable=SC2154

# each FUNCTION ROWS: a row is "what; words of make_disk; patches; more", and
# FUNCTION gets "more" with the image made, and its output in row.log.
each () {
  local row what make patches more failed=() words
  while IFS= read -r row; do
    [ -n "$row" ] || continue
    IFS=';' read -r what make patches more <<<"$row"
    rm -f "disk.$format" "disk.$format.raw"
    read -ra words <<<"$make"
    make_disk "${words[@]}" || failed+=("$what")
    read -ra words <<<"$patches"
    [ ${#words[@]} -eq 0 ] ||
      image_file patch "disk.$format" "${words[@]}" || failed+=("$what")
    more=${more#"${more%%[! ]*}"}
    cp "disk.$format" "before.$format"
    : >row.log
    "$1" "$more" >>row.log 2>&1 || {
      failed+=("$what")
      printf -- '---- %s (%s; %s)\n' "$what" "$make" "$patches"
      cat row.log
    }
  done <<<"$2"
  [ ${#failed[@]} -eq 0 ] || printf 'wrong: %s\n' "${failed[@]}"
  [ ${#failed[@]} -eq 0 ]
}

unchanged () { cmp "disk.$format" "before.$format"; }

# warned PATTERN: in row.log, of the image.
warned () {
  assert_match "$(cat row.log)" "warning: .*disk\\.$format: .*$1"
}

# refused PATTERN: nbdkit ends at once, names the file, and says why.
refused () {
  refuses "disk\\.$format: .*$1" -r "$format" "disk.$format" || return 1
  unchanged
}

not_writable () {
  refuses "disk\\.$format: .*$1" "$format" "disk.$format" write=require ||
    return 1
  unchanged
}

# read_only PATTERN: the content is right, whoever wants to write gets it
# read-only and the server says why; with write=require it does not start.
read_only () {
  serve "$format" "disk.$format" -- '
    nbdinfo --json "$uri" | jq -e ".exports[0].is_read_only" &&
    nbdcopy "$uri" out.raw' || return 1
  warned "$1" || return 1
  cmp out.raw "disk.$format.raw" || return 1
  not_writable "$1"
}

# written [PATTERN]: read right, and what is written is there afterwards.
written () {
  RAW=disk.$format.raw serve "$format" "disk.$format" -- '
    nbdcopy "$uri" out.raw && cmp out.raw "$RAW" && $NBDSH -u "$uri" -c "
raw = open(\"$RAW\", \"r+b\")
size = h.get_size()
for offset, n in ((100, 5000), (size - 600, 600)):
    raw.seek(offset)
    raw.write(b\"W\" * n)
    h.pwrite(b\"W\" * n, offset)
h.flush()
raw.close()
"' || return 1
  [ -z "$1" ] || assert_match "$(cat row.log)" "warning: .*$1" || return 1
  serve -r "$format" "disk.$format" -- 'nbdcopy "$uri" after.raw' || return 1
  cmp after.raw "disk.$format.raw"
}

# lost "RANGES PATTERN": numbers of the pieces that are lost, as "2,7-9".  What
# reads them fails with the reason, the rest is right, nothing is written.
lost () {
  local ranges=${1%% *} pattern=${1#* }
  cat >lost.py <<'EOP'
import os
lost = set()
for part in os.environ["LOST"].split(","):
    first, _, last = part.partition("-")
    lost.update(range(int(first), int(last or first) + 1))
want = open(os.environ["RAW"], "rb").read()
piece = int(os.environ["PIECE"])
for i in range(-(-len(want) // piece)):
    start, end = i * piece, min((i + 1) * piece, len(want))
    for n in (512, end - start):
        try:
            data = h.pread(n, end - n)
        except nbd.Error as e:
            assert i in lost, ("piece %d fails" % i, e)
            assert e.errno == "EIO", e
        else:
            assert i not in lost, "piece %d is served" % i
            assert data == want[end - n:end], "piece %d" % i
# What is lost is no hole for those who copy.
found = []
h.block_status(len(want), 0,
               lambda context, offset, entries, err:
                 found.extend(entries) or 0)
offset = 0
for n, flags in zip(found[::2], found[1::2]):
    for i in lost:
        if offset < (i + 1) * piece and offset + n > i * piece:
            assert flags == 0, (offset, n, flags)
    offset += n
EOP
  LOST=$ranges RAW=disk.$format.raw PIECE=$piece PYTHON=$PYTHON \
    serve "$format" "disk.$format" -- '"$PYTHON" -c "
import nbd
h = nbd.NBD()
h.add_meta_context(\"base:allocation\")
h.connect_uri(\"$uri\")
h.set_strict_mode(0)
exec(open(\"lost.py\").read())"' || return 1
  assert_match "$(cat row.log)" "disk\\.$format: .*$pattern" || return 1
  unchanged || return 1
  # Whoever copies learns of it.
  ! serve -r "$format" "disk.$format" -- 'nbdcopy "$uri" null:' || return 1
  ! serve -r "$format" "disk.$format" -- \
    'qemu-img convert -f raw -O raw "$uri" out.raw'
}
