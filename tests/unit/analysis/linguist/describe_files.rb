# Prints what Linguist says about each file of repositories, one line of JSON per file:
#
#   ruby describe_files.rb LIB REPOSITORY...
#
# LIB is a copy of Linguist's folder `lib`, in which the data may have been replaced. Its statistical classifier is not used: with several
# languages left, the language is null and `ambiguous` true.
require "json"

gem_specification = Gem::Specification.find_by_name("github-linguist")
$LOAD_PATH.unshift(ARGV.shift, gem_specification.extension_dir)
require "rugged"
require "linguist"

class Linguist::Classifier
  def self.call(_blob, languages)
    $ambiguous = languages.any?
    []
  end
end

ARGV.each do |path|
  rugged = Rugged::Repository.new(path)
  repository = Linguist::Repository.new(rugged, rugged.head.target_id)
  repository.read_index
  rugged.head.target.tree.walk_blobs do |folder, entry|
    next unless [0o100644, 0o100755].include?(entry[:filemode])
    blob = Linguist::LazyBlob.new(rugged, entry[:oid], folder + entry[:name], entry[:filemode].to_s(8))
    $ambiguous = false
    language = blob.language
    puts JSON.generate(
      path: blob.path.dup.force_encoding("BINARY").unpack1("H*"),
      language: $ambiguous ? nil : language&.name,
      ambiguous: $ambiguous,
      vendored: blob.vendored?,
      documentation: blob.documentation?,
      generated: blob.generated? ? true : false
    )
  end
  puts
end
