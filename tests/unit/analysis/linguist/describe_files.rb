# Prints what Linguist says about each file at HEAD of a repository, one line of JSON per file:
#
#   ruby describe_files.rb LIB REPOSITORY
#
# LIB is a copy of Linguist's folder `lib`, in which the data may have been replaced. Its statistical classifier is not used: if several
# languages are left, `ambiguous` is true.
require "json"

LIB, REPOSITORY = ARGV
$LOAD_PATH.unshift(LIB, Gem::Specification.find_by_name("github-linguist").extension_dir)
require "rugged"
require "linguist"

class Linguist::Classifier
  def self.call(_blob, languages)
    $ambiguous = languages.any?
    []
  end
end

rugged = Rugged::Repository.new(REPOSITORY)
Linguist::Repository.new(rugged, rugged.head.target_id).read_index
rugged.head.target.tree.walk_blobs do |folder, entry|
  next unless [0o100644, 0o100755].include?(entry[:filemode])

  path = folder + entry[:name]
  blob = Linguist::LazyBlob.new(rugged, entry[:oid], path, entry[:filemode].to_s(8))
  $ambiguous = false
  language = blob.language
  puts JSON.generate(
    path: path.b.unpack1("H*"),
    language: $ambiguous ? nil : language&.name,
    ambiguous: $ambiguous,
    vendored: blob.vendored?,
    documentation: blob.documentation?,
    generated: blob.generated? ? true : false
  )
end
