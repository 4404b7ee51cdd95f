# Builds the package and runs its checks: `nix build`, `nix flake check`, `nix develop`.
{
  description = "MLX's Python API on every machine";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ];
      each = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      package =
        pkgs:
        let
          python = pkgs.python3Packages;
        in
        python.buildPythonPackage {
          pname = "mlxr";
          version = builtins.head (builtins.match ".*__version__ = \"([^\"]+)\".*" (builtins.readFile ./mlxr/_version.py));
          pyproject = true;
          src = self;
          build-system = [ python.setuptools python.cython ];
          dependencies = [ python.numpy python.safetensors ];
          buildInputs = pkgs.lib.optional pkgs.stdenv.isDarwin pkgs.llvmPackages.openmp;
          pythonImportsCheck = [ "mlxr" ];
        };
    in
    {
      packages = each (pkgs: { default = package pkgs; });

      checks = each (pkgs: {
        tests = (package pkgs).overridePythonAttrs (old: {
          nativeCheckInputs = with pkgs.python3Packages; [ pytestCheckHook hypothesis pytest-xdist ];
          # The tests are to find the installed package, not the sources beside them.
          preCheck = "rm -rf mlxr";
        });
      });

      devShells = each (pkgs: {
        default = pkgs.mkShell {
          packages = [ pkgs.python3 pkgs.gnumake pkgs.ccache pkgs.clang-tools ];
        };
      });
    };
}
