#!/usr/bin/env bash
# Fails, naming the file, when a committed BPF object or its Go binding is not
# what the sources give. It generates in a copy elsewhere on the disk, so a path
# that got into an object shows as a difference too.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

# objects DIR prints the generated files below DIR, relative to it.
objects() {
	(cd "$1" && find . \( -path ./.git -o -path ./out \) -prune -o \( -name '*_bpfel.go' -o -name '*_bpfel.o' -o -name '*.pb.go' \) -print | sort)
}

tar --exclude=./.git --exclude=./out --exclude=./bin --exclude=./.cache -cf - . | tar -xf - -C "$copy"
objects "$copy" | (cd "$copy" && xargs -r rm --)
(cd "$copy" && scripts/generate.sh)

status=0
while read -r file; do
	if [ ! -e "$file" ]; then
		note "$file: the sources make it, but it is not there"
	elif [ ! -e "$copy/$file" ]; then
		note "$file: no source makes it"
	elif ! cmp -s "$file" "$copy/$file"; then
		note "$file: differs from what the sources give"
	else
		continue
	fi
	status=1
done < <(
	objects . >"$copy/.have"
	objects "$copy" | sort -u - "$copy/.have"
)
if [ "$status" -ne 0 ]; then
	note "compiled here by: $(clang-19 --version | head -n 1)"
fi
exit "$status"
