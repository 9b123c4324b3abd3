package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

// pages returns every page of the project that this folder answers for.
func pages(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.md")
	require.NoError(t, err)
	return append(files, filepath.Join("..", "README.md"))
}

func TestReadme_codeIsWhatTheTestsRun(t *testing.T) {
	shown := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(read(t, "../README.md"))
	require.NotNil(t, shown, "the README shows no code")
	_, rest, begun := strings.Cut(read(t, "../examples/readme/example_test.go"), "\t// README begins\n")
	run, _, ended := strings.Cut(rest, "\t// README ends\n")
	require.True(t, begun && ended, "the example has lost its marks")
	assert.Equal(t, regexp.MustCompile(`(?m)^\t`).ReplaceAllString(run, ""), shown[1])
}

func TestPages_linksLeadSomewhere(t *testing.T) {
	for _, page := range pages(t) {
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(link[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			_, err := os.Stat(target)
			if assert.NoError(t, err, "%s links to %s", page, link[1]) && anchor != "" {
				assert.Contains(t, anchors(read(t, target)), anchor, "%s links to %s", page, link[1])
			}
		}
	}
}

// anchors returns what can be linked to in a page: its headings, as they appear in addresses.
func anchors(page string) []string {
	var found []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		found = append(found, strings.ReplaceAll(name, " ", "-"))
	}
	return found
}

func TestPages_makeTargetsExist(t *testing.T) {
	makefile := read(t, "../Makefile")
	for _, page := range pages(t) {
		for _, target := range regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)").FindAllStringSubmatch(read(t, page), -1) {
			assert.Regexp(t, "(?m)^"+target[1]+":", makefile, "%s tells to run make %s", page, target[1])
		}
	}
}

func TestGuides_everyOptionIsListed(t *testing.T) {
	for _, guide := range []struct {
		page, code, option string
		atLeast            int
	}{
		{"tagging.md", "../strategies/tagging/*.go", "Option", 20},
		{"delayedcheck.md", "../strategies/delayedcheck/*.go", "SenderOption", 15},
	} {
		page := read(t, guide.page)
		files, err := filepath.Glob(guide.code)
		require.NoError(t, err)
		var code strings.Builder
		for _, file := range files {
			code.WriteString(read(t, file))
		}
		options := regexp.MustCompile(`(?m)^func ([A-Z]\w*)(?:\[.*\])?\(.*\) `+guide.option+` `).FindAllStringSubmatch(code.String(), -1)
		require.Greater(t, len(options), guide.atLeast)
		for _, option := range options {
			assert.True(t, strings.Contains(page, "\n| `"+option[1]+"`") || strings.Contains(page, ", `"+option[1]+"`"),
				"%s does not know the option %s", guide.page, option[1])
		}
	}
}

func TestCallback_everyOptionIsListed(t *testing.T) {
	guide := read(t, "callback.md")
	files, err := filepath.Glob("../strategies/delayedcheck/service*.go")
	require.NoError(t, err)
	options := 0
	for _, file := range files {
		for _, option := range regexp.MustCompile(`(?m)^func ([A-Z]\w*)\(.*\) ServiceOption `).FindAllStringSubmatch(read(t, file), -1) {
			options++
			assert.True(t, strings.Contains(guide, "\n| `"+option[1]+"`") || strings.Contains(guide, ", `"+option[1]+"`"),
				"the guide of the callback service does not know the option %s", option[1])
		}
	}
	assert.Greater(t, options, 15)
}

func TestOperations_everyHookIsKnown(t *testing.T) {
	operations := read(t, "operations.md")
	code := read(t, "../strategies/tagging/options.go")
	hooks := regexp.MustCompile(`(?s)type Hooks struct \{(.*?)\n\}`).FindStringSubmatch(code)
	require.NotNil(t, hooks)
	for _, hook := range regexp.MustCompile(`(?m)^\t(\w+) +func\(`).FindAllStringSubmatch(hooks[1], -1) {
		assert.Regexp(t, "`"+hook[1]+"`", operations, "the operations page does not know the hook %s", hook[1])
	}
}

func TestAdapters_everyAbilityIsListed(t *testing.T) {
	page := read(t, "adapters.md")
	files, err := filepath.Glob("../reliable/*.go")
	require.NoError(t, err)
	found := 0
	for _, file := range files {
		for _, ability := range regexp.MustCompile(`(?m)^// (\w+) is (?:the|an optional) ability of `).FindAllStringSubmatch(read(t, file), -1) {
			found++
			assert.Regexp(t, "`(?:reliable\\.)?"+ability[1]+"`", page, "the page on adapters does not know the ability %s", ability[1])
		}
	}
	require.Greater(t, found, 15)
}
