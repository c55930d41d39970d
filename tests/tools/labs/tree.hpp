// A student's tree: what of the course it has, and in which form.
#pragma once

#include <set>

#include "variant.hpp"

namespace tessera::labs {

/// What a student's tree has of the course.
inline const std::vector<std::string> manifest = {
    // The course.
    "lessons", "src", "notebooks_md", "README.md", "LICENSE",
    // What builds and checks it.
    "tessera", "CMakeLists.txt", "CMakePresets.json", ".clang-format", ".gitignore", "tests/CMakeLists.txt",
    "tests/tools/labs", "tests/tools/pages/source.hpp", "tests/tools/pages/text.hpp", "tests/tools/run.sh"};

/// A file with the lesson's ideas, of which --empty leaves signatures. Mains and the harness stay: they test;
/// and the GPT by hand has no tasks.
inline bool teaches(const std::string& file) {
  return file.find("/harness/") == std::string::npos && !file.ends_with("/main.cpp") &&
         folder_of(file) != "00_gpt";
}

/// Replaces a page's excerpts of sources by those of the student's form.
inline void cut_page(const fs::path& root, const fs::path& page) {
  const Lines lines = pages::split(pages::read(page));
  Lines now;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    now.push_back(lines[i]);
    const auto marker = pages::marker_in(lines[i]);
    if (!marker || marker->kind != "excerpt") continue;
    const pages::Place place(*marker);
    if (!fs::exists(root / place.file)) continue;  // no part of the tree
    pages::append(now, pages::excerpt_block(root, place));
    while (i + 1 < lines.size() && lines[i + 1] != "<!-- end -->") ++i;
  }
  pages::write(page, pages::join(now));
}

/// How a tree differs from the usual one.
struct TreeOptions {
  std::set<std::string> empty;  // of these lessons signatures alone
  std::string first;            // lessons before this one are solved; "": none is
  int variant = 0;              // of the names
};

/// The course at `from` for a student, into the folder `to`.
inline void write_tree(const fs::path& from, const fs::path& to, const TreeOptions& options) {
  const auto names = names_of(options.variant);
  for (const std::string& name : manifest) {
    if (!fs::exists(from / name)) continue;
    fs::create_directories((to / name).parent_path());
    fs::copy(from / name, to / name, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  }
  for (const char* own : {"cheats.txt", "labs_test.sh", "tree_test.sh"})
    fs::remove(to / "tests/tools/labs" / own);
  for (const std::string& file : lesson_files(to)) {
    if (!file.ends_with("pp")) continue;
    const std::string code = pages::read(to / file), lesson = folder_of(file).substr(0, 2);
    const bool all = options.empty.count(lesson) > 0 && teaches(file);
    pages::write(to / file,
                 code_with_names(lesson < options.first ? code : student_form(code, file, all), names));
  }
  for (const auto& lab : fs::directory_iterator(to / labs_folder))
    if (lab.path().filename().string().rfind("lab_", 0) == 0)
      pages::write(lab.path(), code_with_names(pages::read(lab.path()), names));
  for (const auto& page : fs::directory_iterator(to / "notebooks_md"))
    if (page.path().extension() == ".md") {
      pages::write(page.path(), with_names(pages::read(page.path()), names));
      cut_page(to, page.path());
    }
}

}  // namespace tessera::labs
