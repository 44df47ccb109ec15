package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"vipd/tests/kube/machine"
)

// images is where the images are until the machines have imported them.
const images = "/run/images"

// image is a container image of one program, and of little else if anything.
type image struct {
	// reference is its whole name.
	reference string
	// program is the file outside, and path where it is in the image.
	program, path string
	// link is a second name of the program, if there is one.
	link string
	// more are further programs, by where they are in the image; files are texts in it.
	more, files map[string]string
	// entrypoint is what runs when the pod names no command.
	entrypoint []string
}

// kubernetesImages lists, for kubeadm's own list of images, those that the machines need and the programs in them.
func kubernetesImages(ctx context.Context, programs Programs) ([]image, error) {
	list, err := exec.CommandContext(ctx, filepath.Join(programs.Kubernetes, "kubeadm"),
		"config", "images", "list", "--kubernetes-version", programs.Version).Output()
	if err != nil {
		return nil, fmt.Errorf("kubeadm config images list: %w", err)
	}
	var found []image
	for reference := range strings.FieldsSeq(string(list)) {
		repository, _, _ := strings.Cut(reference, ":")
		name := path.Base(repository)
		switch name {
		case "kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd":
			found = append(found, image{reference: reference, program: filepath.Join(programs.Kubernetes, name), path: "usr/local/bin/" + name})
		case "pause":
			found = append(found, image{reference: reference, program: programs.Pause, path: "pause", entrypoint: []string{"/pause"}})
		}
	}
	if len(found) != 5 {
		return nil, fmt.Errorf("kubeadm lists other images than expected: %s", list)
	}
	return found, nil
}

// file is where the image is while it is being imported.
func (i image) file() string {
	return filepath.Join(images, strings.NewReplacer("/", "_", ":", "_").Replace(i.reference)+".tar")
}

// make writes the image as `docker save` would: one layer, its configuration, and a list of both.
func (i image) make() error {
	layer, err := os.CreateTemp(images, "layer")
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(layer.Close(), os.Remove(layer.Name())) }()
	digest := sha256.New()
	if err := i.writeLayer(io.MultiWriter(layer, digest)); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           runtime.GOOS,
		"config":       map[string]any{"Entrypoint": i.entrypoint, "Env": []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(digest.Sum(nil))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.reference}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	size, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	file, err := os.Create(i.file())
	if err != nil {
		return err
	}
	archive := tar.NewWriter(file)
	err = errors.Join(
		writeFile(archive, "manifest.json", 0o644, int64(len(manifest)), bytes.NewReader(manifest)),
		writeFile(archive, "config.json", 0o644, int64(len(config)), bytes.NewReader(config)),
		writeFile(archive, "layer.tar", 0o644, size, layer),
	)
	return errors.Join(err, archive.Close(), file.Close())
}

func (i image) writeLayer(to io.Writer) error {
	programs := map[string]string{i.path: i.program}
	maps.Copy(programs, i.more)
	// etcd and the apiserver have temporary files.
	folders := map[string]bool{"tmp": true}
	beside := map[string]bool{}
	for at, program := range programs {
		for folder := path.Dir(at); folder != "."; folder = path.Dir(folder) {
			folders[folder] = true
		}
		needed, err := libraries(program)
		if err != nil {
			return err
		}
		for _, library := range needed {
			beside[library] = true
		}
	}
	layer := tar.NewWriter(to)
	// A folder comes before those in it.
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		if err := layer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	for library := range beside {
		programs[strings.TrimPrefix(library, "/")] = library
	}
	for at, program := range programs {
		if err := copyFile(layer, at, program); err != nil {
			return err
		}
	}
	for at, text := range i.files {
		if err := writeFile(layer, at, 0o644, int64(len(text)), strings.NewReader(text)); err != nil {
			return err
		}
	}
	if i.link != "" {
		if err := layer.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: i.link, Linkname: path.Base(i.path), Mode: 0o777}); err != nil {
			return err
		}
	}
	return layer.Close()
}

// copyFile adds a file of this machine to an archive, as a program.
func copyFile(archive *tar.Writer, at, from string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	status, err := file.Stat()
	if err != nil {
		return err
	}
	return writeFile(archive, at, 0o755, status.Size(), file)
}

// libraries are what a program that is not static, such as an ordinary `cargo build` makes, needs beside it.
func libraries(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	if needed, err := file.ImportedLibraries(); err != nil || len(needed) == 0 {
		return nil, err
	}
	list, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	var found []string
	for word := range strings.FieldsSeq(string(list)) {
		if strings.HasPrefix(word, "/") {
			found = append(found, word)
		}
	}
	return found, nil
}

func writeFile(archive *tar.Writer, name string, mode, size int64, content io.Reader) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}

// load imports images into a machine's containerd.
func load(ctx context.Context, into *machine.Machine, all []image) error {
	for _, image := range all {
		file, err := os.Open(image.file())
		if err != nil {
			return err
		}
		command, err := into.Command(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "-")
		if err != nil {
			return errors.Join(err, file.Close())
		}
		command.Stdin = file
		output, err := command.CombinedOutput()
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("%s: failed to import %s: %w: %s", into.Name, image.reference, err, output)
		}
	}
	return nil
}
